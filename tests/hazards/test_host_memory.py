"""The tracer's memory in the watched program is bounded, however many events there are."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from program_runs import recorded

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "record" / "host_memory.py"
PROGRAM = Path(__file__).resolve().parents[1] / "programs" / "hazards" / "modules_inline.py"
MIB = 1 << 20


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_three_million_events(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "--millions", "3", "--json"],
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["events"] >= 3_000_000
    assert found["added_bytes"] <= 64 * MIB
    # 96 MB of records went through in the second half.
    assert found["grown_in_second_half_bytes"] <= 4 * MIB


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_a_module_for_each_call(tmp_path: Path) -> None:
    shown = recorded(tmp_path / "t.memtrace", PROGRAM, cwd=tmp_path)
    assert shown.status == 0, shown.err.decode()
    found = json.loads(shown.out.splitlines()[0])
    assert found["grown_bytes"] <= 2 * MIB
    # A new one costs the same, however many of them are kept.
    assert found["last_s"] <= 3 * found["first_s"]
