"""Turns memtrace's hooks on and off around one iteration.

Of the finaliser there is what works while the program runs: the packer of full windows, in a
process of its own, as beside any program that `memtrace run` starts. With the looks at models that
a recording takes: the names of gradients come from them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from types import SimpleNamespace, TracebackType

import torch

from memtrace import _core
from memtrace.hook.installed import load_native
from memtrace.hook.scan import Scan
from memtrace.run.environment import Options

_PACKER = """
import os, sys
from memtrace import _core
os.nice(19)
for line in sys.stdin:
    print(_core.WindowPacker(line.strip()).work(), flush=True)
"""


class PackerBeside:
    """A process that packs what one recording after the other hands over."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PACKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def begin(self, folder: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(folder + "\n")
        self._process.stdin.flush()
        while not any((Path(folder) / "handover.bin").read_bytes()[:4]):
            time.sleep(0.001)

    def end(self) -> None:
        """After the recording's end, which it sees by itself."""
        assert self._process.stdout
        left = self._process.stdout.readline().strip()
        assert left == "writer_ended", left

    @property
    def cpu_s(self) -> float:
        """That the process has used so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@cache
def packer_beside() -> PackerBeside:
    """One for all recordings of this process."""
    return PackerBeside()


class HooksOn:
    """A context: the hooks of a recording, into a spool that is thrown away."""

    def __init__(
        self,
        *,
        operators: bool = True,
        stacks: bool = True,
        cpu: bool = True,
        cuda: bool = False,
        paused: bool = False,
        folder: str | None = None,
        beside: bool = True,
    ) -> None:
        """`paused`: as between pause() and resume().

        `folder`: for the spool, instead of a temporary one; it goes at the end, too.
        `beside`: with the process that packs; else full windows are appended by who filled them.
        """
        self.options = {"operators": operators, "stacks": stacks, "cpu": cpu}
        self.cuda = cuda
        self.paused = paused
        self.wanted_folder = folder
        self.packer = packer_beside() if beside else None

    def __enter__(self) -> HooksOn:
        self.folder = self.wanted_folder or tempfile.mkdtemp(prefix="memtrace-bench-")
        self.recorder = _core.Recorder(self.folder)
        if self.packer:
            self.packer.begin(self.folder)
        self.hook = load_native(torch)
        self.hook.start(
            self.recorder.api,
            stack_min_bytes=0,
            module_class=torch.nn.Module,
            tensor_class=torch.Tensor,
            runner_prefixes=[],
            **self.options,
        )
        if self.cuda:
            self.hook.attach_cuda()
        recorded = SimpleNamespace(recorder=self.recorder, options=Options(**self.options))
        self.scan = Scan(recorded, torch, self.hook)
        self.scan.begin()
        if self.paused:
            self.hook.pause()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.hook.stop()
        self.scan.end()
        self.recorder.close()
        if self.packer:
            self.packer.end()
        self.lost = self.recorder.lost()
        shutil.rmtree(self.folder)
