"""Forks with CUDA up, on the simulated runtime: each has its own rows, all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import memtrace
import simcuda
from program_runs import plain_environment, python, recorded

PROGRAM = Path(__file__).resolve().parents[1] / "programs" / "hazards" / "cuda_forks.py"
MIB = 1 << 20

pytestmark = pytest.mark.cuda_sim


def environment() -> dict[str, str]:
    simulated = simcuda.environment(simcuda.Machine(memory_mb=1024))
    kept = {name: simulated[name] for name in simulated if name.startswith(("SIMCUDA", "LD_"))}
    return {**plain_environment(), **kept}


def test_forks_with_cuda_up(tmp_path: Path) -> None:
    reason = simcuda.unavailable()
    if reason:
        pytest.skip(reason)
    plain = python(PROGRAM, env=environment())
    assert plain.out.count(b"Cannot re-initialize CUDA") == 3
    trace_dir = tmp_path / "t.memtrace"
    assert recorded(trace_dir, PROGRAM, env=environment()) == plain
    trace = memtrace.open(trace_dir)
    rows = sorted(trace.processes.to_pylist(), key=lambda row: row["clock_origin_unix_ns"])
    assert [row["start_method"] for row in rows] == ["main", "fork", "fork", "fork", "spawn"]
    assert [row["exit_status"] for row in rows] == [0, 3, 4, 0, 0]
    for row in rows:
        assert (row["lost_total"], row["unmatched_frees"]) == (0, 0), row["lost_events"]
        assert (row["complete"], row["hook_error"]) == (True, None)
    allocations = trace.allocations.to_pylist()

    def live_mib(process: dict[str, Any]) -> list[int]:
        return [
            row["size_bytes"] // MIB
            for row in allocations
            if row["process"] == process["process"] and row["device"] == "cuda:0"
        ]

    main, *forked, spawned = rows
    assert live_mib(main) == [1, 2, 3, 4, 5, 9]
    assert [live_mib(row) for row in forked] == [[]] * 3
    assert live_mib(spawned) == [1, 2, 3, 4, 5, 7]
    # torch's own counters at the end say the same: nothing of a child's is in the parent's.
    assert all(row["reconciled"] for row in (main, spawned))
    for row in forked:
        own = [a for a in allocations if a["process"] == row["process"] and a["device"] == "cpu"]
        assert [a["size_bytes"] for a in own] == list(range(10_000, 10_020))
