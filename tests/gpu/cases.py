"""What runs on a real GPU: tests/programs/cuda and gpu, compared as on the simulated machine.

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
from exact.recording import Recording, program_path, record

# None that needs the simulation's controls, its size of the device, or a second one.
_HISTORY = (
    "mlp", "cnn", "transformer_train", "gpt2_train", "gpt2_forward_cache", "random_sizes",
    "empty_cache", "graph_capture", "mempool", "threads", "pinned_dataloader", "two_streams",
    "mempool_rules", "settings_change", "sdpa", "amp", "checkpoint", "lstm", "leak", "exception",
    "storage_resize", "model_convert",
    "llama_serve", "llama_train", "compiled", "compiled_graphs", "out_of_memory",
)  # fmt: skip
_PROFILER = ("mlp", "transformer_train", "random_sizes", "llama_serve")
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
        text = program_path(self.program).read_text()
        needs_transformers = "transformers" in text or "from llama import" in text
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
