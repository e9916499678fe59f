from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def trace_dir(tmp_path: Path) -> Path:
    """Where a trace is to be; nothing is there yet."""
    return tmp_path / "t.memtrace"
