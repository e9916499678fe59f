"""Runs of program.py, recorded once for each set of options and kept in a folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import memtrace
from memtrace.trace import Trace

FIT = Path(__file__).resolve().parent
REPOSITORY = FIT.parent.parent


class RunError(Exception):
    """The program failed, and would again; the last line that it printed."""


@dataclass(frozen=True)
class Machine:
    """Where programs are run: a device, and the interpreter that has a torch for it."""

    device: str
    python: str

    @cached_property
    def environ(self) -> dict[str, str]:
        """On CUDA, without a GPU: the simulated runtime of tests/simcuda."""
        environ = os.environ | {"HF_HUB_OFFLINE": "1"}
        if self.device == "cpu":
            return environ
        build = [self.python, str(REPOSITORY / "tests" / "simcuda" / "build.py")]
        folder = subprocess.run(build, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        library = f"{folder}/libsimcuda-all.so"
        return environ | {"LD_PRELOAD": library, "SIMCUDA_MEM_MB": "8192"}


@dataclass(frozen=True)
class Recordings:
    """The folder that recordings are kept in, each under its options."""

    folder: Path
    machine: Machine

    def trace(self, options: str) -> Trace:
        """Of a run with these options.

        Raises:
            RunError: also if it failed in an earlier session.
        """
        path = self._path(options, ".memtrace")
        if not path.exists():
            part = path.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            record = ["-m", "memtrace", "run", "--quiet", "-o", str(part)]
            self._run(options, [*record, str(FIT / "program.py")], path)
            part.rename(path)
        return memtrace.open(path)

    def fake_tensor_peak_bytes(self, options: str) -> int:
        """What FakeTensor and MemTracker say of the same run.

        Raises:
            RunError: they can't run it.
        """
        path = self._path(options, ".fake")
        if not path.exists():
            path.write_text(self._run(options, [str(FIT / "fake_tensors.py")], path))
        return int(path.read_text().split()[-1])

    def _path(self, options: str, suffix: str) -> Path:
        words = re.sub(r"[^\w.]+", "-", options).strip("-")
        return self.folder / self.machine.device / (words + suffix)

    def _run(self, options: str, program: Sequence[str], path: Path) -> str:
        failed = path.with_suffix(path.suffix + ".failed")
        if failed.exists():
            raise RunError(failed.read_text())
        path.parent.mkdir(parents=True, exist_ok=True)
        argv = [self.machine.python, *program, "--device", self.machine.device, *options.split()]
        done = subprocess.run(argv, capture_output=True, text=True, env=self.machine.environ)
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
            failed.write_text(said[-1])
            raise RunError(said[-1])
        return done.stdout
