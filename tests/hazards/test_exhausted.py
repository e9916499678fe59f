"""Out of memory by the thousand, caught each time: every failure is told, nothing else changes."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

import memtrace
import simcuda
from memtrace.analyse.failures import list_ooms
from program_runs import main_process, plain_environment, python, recorded

PROGRAM = Path(__file__).resolve().parents[1] / "programs" / "unharmed" / "oom_loop.py"
FAILURES = 3000

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed"
)


def check(tmp_path: Path, device: str, env: dict[str, str]) -> None:
    trace_dir = tmp_path / "t.memtrace"
    plain = python(PROGRAM, device, env=env)
    assert plain.status == 0, plain.err
    assert str(FAILURES).encode() in plain.out
    assert recorded(trace_dir, PROGRAM, device, env=env) == plain
    process = main_process(trace_dir)
    assert (process["lost_total"], process["unmatched_frees"]) == (0, 0)
    assert process["exit_status"] == 0
    trace = memtrace.open(trace_dir)
    assert len(list_ooms(trace)) == FAILURES
    rows = trace.allocations.to_pylist()
    # A failed allocation is no allocation; those between are there, and live to the end.
    live = [row["size_bytes"] for row in rows if row["free_seq"] is None]
    assert sorted(size for size in live if size >= 10_000) == [
        10_000 + i for i in range(0, FAILURES, 100)
    ]
    assert max(row["size_bytes"] for row in rows) < 1 << 40


def test_on_the_cpu(tmp_path: Path) -> None:
    check(tmp_path, "cpu", plain_environment())


@pytest.mark.cuda_sim
def test_on_a_device(tmp_path: Path) -> None:
    simulated = simcuda.environment(simcuda.Machine(memory_mb=1024))
    env = {k: v for k, v in simulated.items() if k in plain_environment() or k not in os.environ}
    check(tmp_path, "cuda", env)
