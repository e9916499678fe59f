"""Turns memtrace's hooks on and off around one iteration, without a finaliser beside it.

With the looks at models that a recording takes: the names of gradients come from them.
"""

from __future__ import annotations

import shutil
import tempfile
from types import SimpleNamespace, TracebackType

import torch

from memtrace import _core
from memtrace.hook.installed import load_native
from memtrace.hook.scan import Scan
from memtrace.run.environment import Options


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
    ) -> None:
        """`paused`: as between pause() and resume().

        `folder`: for the spool, instead of a temporary one; it goes at the end, too.
        """
        self.options = {"operators": operators, "stacks": stacks, "cpu": cpu}
        self.cuda = cuda
        self.paused = paused
        self.wanted_folder = folder

    def __enter__(self) -> HooksOn:
        self.folder = self.wanted_folder or tempfile.mkdtemp(prefix="memtrace-bench-")
        self.recorder = _core.Recorder(self.folder)
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
        self.lost = self.recorder.lost()
        shutil.rmtree(self.folder)
