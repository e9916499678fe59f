"""What runs on a real GPU: programs of tests/programs/cuda, compared as on the simulated machine.

Imports no pytest: run_all.py does the same where there is none.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from exact.comparison import COMPARISONS, block_bytes_equal_what_the_profiler_reports
from exact.recording import PROGRAMS, Recording, record

# None that runs out of memory on purpose, or needs the simulation's controls or a second device.
_HISTORY = (
    "mlp", "cnn", "transformer_train", "gpt2_train", "gpt2_forward_cache", "random_sizes",
    "empty_cache", "graph_capture", "mempool", "threads", "pinned_dataloader",
)  # fmt: skip
_PROFILER = ("mlp", "transformer_train", "random_sizes")
_SETTINGS = {"default": "", "expandable": "expandable_segments:True"}
Comparison = Callable[[Recording], None]


@dataclass(frozen=True)
class Case:
    """One run on the GPU, and what it is held against."""

    program: str
    setting: str
    mode: str  # of tests/exact/oracle.py

    def __str__(self) -> str:
        return f"{self.program}-{self.setting}-{self.mode}"

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        if self.mode == "profiler":
            return (block_bytes_equal_what_the_profiler_reports,)
        return COMPARISONS

    @property
    def lacks(self) -> str | None:
        """Why this machine cannot run it; None: it can."""
        needs_transformers = "transformers" in (PROGRAMS / f"{self.program}.py").read_text()
        if needs_transformers and importlib.util.find_spec("transformers") is None:
            return "transformers is not installed"
        return None

    def record(self, folder: Path) -> Recording:
        return record(self.program, _SETTINGS[self.setting], self.mode, folder, real=True)


def cases() -> Iterator[Case]:
    for mode, programs in (("history", _HISTORY), ("profiler", _PROFILER)):
        for program in programs:
            for setting in _SETTINGS:
                yield Case(program, setting, mode)


def unavailable() -> str | None:
    """Why there is no real GPU here; None: there is one."""
    # In a process of its own: asking torch brings up CUDA, and takes seconds.
    code = (
        "import ctypes, torch\n"
        "simulated = hasattr(ctypes.CDLL(None), 'simcuda_configure')\n"
        "print('simulated' if simulated else torch.cuda.is_available())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = done.stderr.strip().rpartition("\n")[2]
        return f"torch does not load here: {reason}"
    answer = done.stdout.strip()
    if answer == "simulated":
        return "this machine's CUDA is simulated (tests/simcuda)"
    return None if answer == "True" else "no GPU: torch.cuda.is_available() is false"
