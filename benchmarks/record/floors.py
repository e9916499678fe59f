"""What any tracer costs, whoever wrote it: contexts in which a program pays that and no more."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from record.torch_library import torch_library

HERE = Path(__file__).resolve().parent


@contextlib.contextmanager
def empty_callback() -> Iterator[None]:
    """RecordFunction is on with callbacks that do nothing, and nothing else."""
    library = torch_library(HERE / "empty_callback.cpp")
    library.empty_callback_on()
    yield
    library.empty_callback_off()


@contextlib.contextmanager
def least_tracer() -> Iterator[None]:
    """Operators and allocations have their times written, without a name or a stack."""
    library = torch_library(HERE / "least_tracer.cpp")
    with tempfile.TemporaryFile(prefix="memtrace-bench-") as file:
        library.least_tracer_on(file.fileno())
        yield
        library.least_tracer_off()
