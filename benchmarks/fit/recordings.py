"""Runs of program.py, recorded once for each set of options and kept in a folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

FIT = Path(__file__).resolve().parent
REPOSITORY = FIT.parent.parent
sys.path.insert(0, str(REPOSITORY / "tests"))

import memtrace
import simcuda
from memtrace.trace import Trace


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
        # Threads that wait without end for others make a busy machine busier.
        environ = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "passive"}
        if self.device == "cpu" or simcuda.real_gpu():
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
            self._run("program", options, path, trace=str(part))
            part.rename(path)
        return memtrace.open(path)

    def fake_tensor_peak_bytes(self, options: str) -> int:
        """What FakeTensor and MemTracker say of the same run.

        Raises:
            RunError: they can't run it.
        """
        path = self._path(options, ".fake")
        if not path.exists():
            path.write_text(self._run("fake_tensors", options, path, trace=None))
        return int(path.read_text().split()[-1])

    def _path(self, options: str, suffix: str) -> Path:
        words = re.sub(r"[^\w.]+", "-", options).strip("-")
        return self.folder / self.machine.device / (words + suffix)

    @cached_property
    def _forking(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.machine.python, str(FIT / "forking.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=self.machine.environ,
        )  # fmt: skip

    def _run(self, program: str, options: str, path: Path, *, trace: str | None) -> str:
        failed = path.with_suffix(path.suffix + ".failed")
        if failed.exists():
            raise RunError(failed.read_text())
        path.parent.mkdir(parents=True, exist_ok=True)
        argv = ["--device", self.machine.device, *options.split()]
        request = {"program": program, "argv": argv, "trace": trace}
        ask, answer = self._forking.stdin, self._forking.stdout
        assert ask is not None
        assert answer is not None
        print(json.dumps(request), file=ask, flush=True)
        done = json.loads(answer.readline())
        if done["status"]:
            said = done["errors"].strip().splitlines() or [f"status {done['status']}"]
            failed.write_text(said[-1])
            raise RunError(said[-1])
        return str(done["printed"])
