"""Memory of CUDA graphs, captured by torch on the simulated runtime."""

from __future__ import annotations

from pathlib import Path

import pytest

import simcuda
from memtrace.trace import open_trace
from program_runs import recorded

pytestmark = pytest.mark.cuda_sim

CAPTURE = Path(__file__).parents[1] / "programs" / "cuda" / "graph_capture.py"
INTO_A_HANDLE = """
import torch
x = torch.zeros(1 << 20, device="cuda")
pool = torch.cuda.graph_pool_handle()
graphs = []
for _ in range(2):
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        y = x + 1
    graphs.append((graph, y))
other = torch.cuda.MemPool()
with torch.cuda.use_mem_pool(other):
    z = torch.zeros(1 << 20, device="cuda")
"""


def labels_by_pool(trace: Path, program: Path) -> dict[str, set[str | None]]:
    shown = recorded(trace, program, env=simcuda.environment(simcuda.Machine()))
    assert shown.status == 0, shown.err
    found: dict[str, set[str | None]] = {}
    for row in open_trace(trace).allocations.to_pylist():
        if row["device"] != "cpu":
            found.setdefault(row["pool"], set()).add(row["label"])
    return found


def test_of_a_pool_that_the_capture_made(tmp_path: Path) -> None:
    found = labels_by_pool(tmp_path / "t.memtrace", CAPTURE)
    (pool,) = found.keys() - {"default"}
    assert pool.startswith("graph:")
    # What has a name of its own keeps it: the model's output.
    assert found[pool] == {f"CUDA graph pool {pool.removeprefix('graph:')}", "output"}
    assert not any("graph" in (label or "") for label in found["default"])


def test_of_a_pool_that_was_given(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(INTO_A_HANDLE)
    found = labels_by_pool(tmp_path / "t.memtrace", program)
    given = {pool for pool, labels in found.items() if labels == {f"CUDA graph pool {pool}"}}
    assert len(given) == 1
    assert all(labels == {None} for pool, labels in found.items() if pool not in given)
    assert len(found) == 3
