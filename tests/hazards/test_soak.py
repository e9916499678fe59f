"""A few million events in one recording: nothing of ours grows but what is on the disk."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "record" / "soak.py"
MIB = 1 << 20
EVENTS = 5_000_000


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_five_million_events(tmp_path: Path) -> None:
    argv = [sys.executable, str(BENCHMARK), "--events", str(EVENTS), "--bounded-disk", "--json"]
    done = subprocess.run(
        [*argv, "--folder", str(tmp_path)], capture_output=True, text=True, timeout=250, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["samples"][-1]["events"] >= EVENTS
    assert found["lost"] == {}
    # 450 MB of records went through meanwhile.
    assert found["grown_bytes"] <= 2 * MIB
    assert 64 <= found["spool_bytes_per_event"] <= 128
    assert list(tmp_path.iterdir()) == []
