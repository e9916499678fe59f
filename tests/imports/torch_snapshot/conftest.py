"""Importing a value as if it had been a file."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memtrace.imports.importing import import_file
from memtrace.trace import Trace, open_trace

Import = Callable[..., Trace]


@pytest.fixture
def imported(tmp_path: Path) -> Import:
    """Pickles a value (or takes bytes) and opens the trace that is made of it."""

    def run(value: Any, *, protocol: int = 4, name: str = "s") -> Trace:
        data = value if isinstance(value, bytes) else pickle.dumps(value, protocol=protocol)
        path = tmp_path / f"{name}.pickle"
        path.write_bytes(data)
        return open_trace(import_file(path, str(tmp_path / f"{name}.memtrace"), force=True).path)

    return run
