"""Peaks by torch's own counters while a recording goes on: those of the trace, or none."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

import memtrace
import simcuda

PROGRAM = """
import json, sys, torch, memtrace
from memtrace import recording

MIB = 1 << 20
told = []
def tell():
    peaks = recording.current().hook.cuda_peaks.read()
    told.append({measure: peak for (device, measure), peak in peaks.items()})
def take(mebibytes):
    return torch.empty(mebibytes * MIB, dtype=torch.uint8, device="cuda")

if "before" in sys.argv:
    before = take(100)
    del before
    torch.cuda.empty_cache()
with memtrace.record("x.memtrace"):
    a = take(30); tell()
    b = take(30); del b
    torch.cuda.reset_peak_memory_stats()
    tell()
    c = take(50); del c; tell()
    d = [take(20) for _ in range(5)]; tell()
    del d
    torch.cuda.reset_peak_memory_stats(0); tell()
print(json.dumps(told))
"""
MIB = 1 << 20


def tell(tmp_path: Path, *words: str) -> list[dict[str, Any]]:
    (tmp_path / "program.py").write_text(PROGRAM)
    argv, environment = simcuda.python_command(tmp_path / "program.py", *words, memory_mb=1024)
    shown = subprocess.run(
        argv, env=environment, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=200
    )
    found: list[dict[str, Any]] = json.loads(shown.stdout)
    return found


@pytest.mark.cuda_sim
def test_they_are_those_of_the_trace_also_after_resets(tmp_path: Path) -> None:
    told = tell(tmp_path)
    assert [peaks["allocated"] // MIB for peaks in told] == [30, 60, 80, 130, 130]
    trace = memtrace.open(tmp_path / "x.memtrace")
    for measure in ("allocated", "reserved"):
        assert told[-1][measure] == trace.peak("cuda:0", measure).total_bytes


@pytest.mark.cuda_sim
def test_what_was_before_the_recording_is_no_peak_of_it(tmp_path: Path) -> None:
    told = tell(tmp_path, "before")
    # Until more is held than ever before, torch's counter does not tell.
    assert [peaks.get("allocated", 0) // MIB for peaks in told] == [0, 0, 0, 130, 130]
    trace = memtrace.open(tmp_path / "x.memtrace")
    assert told[-1]["allocated"] == trace.peak("cuda:0").total_bytes
