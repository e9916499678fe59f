"""Workspaces of cuBLAS: told from the result of the product in whose call they are allocated."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import simcuda
from attributed_program import Program
from memtrace.attribute.in_place import attribute_again
from memtrace.trace import open_trace
from trace_builder import ProcessBuilder

DEFAULT_BYTES = 8_519_680
HOPPER_BYTES = 32 << 20
MM = "aten::mm"


def made(p: ProcessBuilder, size_bytes: int, call: int, **columns: Any) -> dict[str, Any]:
    told = {"operator": MM, "operator_call_id": call, **columns}
    return p.alloc("cuda:0", size_bytes, **told)


def workspaces(program: Program) -> list[int]:
    rows = program.attributed()
    return [i for i, row in rows.items() if (row["category"]) == "workspace"]


@pytest.mark.parametrize("size_bytes", [DEFAULT_BYTES, HOPPER_BYTES, 1 << 20])
def test_what_outlives_the_call_beside_its_result(program: Program, size_bytes: int) -> None:
    p = program.process
    with p.call(MM) as call:
        made(p, size_bytes, call)  # the result, even if it has the same size
        scratch = made(p, size_bytes, call)
        workspace = made(p, size_bytes, call)
        p.free(scratch)
    for _ in range(2):
        with p.call(MM) as call:
            made(p, size_bytes, call)
    assert workspaces(program) == [workspace["allocation_id"]]
    assert program.rows("allocations")[2]["category_by"] == "lifetime"
    assert program.rows("allocations")[1]["category"] == "temporary"


def test_one_that_was_cleared_was_one(program: Program) -> None:
    p = program.process
    with p.call(MM) as call:
        made(p, 512, call)
        workspace = made(p, DEFAULT_BYTES, call)
    p.free(workspace)
    assert workspaces(program) == [workspace["allocation_id"]]


@pytest.mark.parametrize("error", ["ValueError", None])
def test_one_made_by_a_step_that_no_backward_follows(program: Program, error: str | None) -> None:
    p = program.process
    with p.step(grad_enabled=True, error=error), p.call(MM) as call:
        result = made(p, 512, call, phase="forward", step=1)
        workspace = made(p, DEFAULT_BYTES, call, phase="forward", step=1)
    p.free(result)
    assert workspaces(program) == [workspace["allocation_id"]]


def test_a_result_that_a_factory_allocated(program: Program) -> None:
    p = program.process
    with p.call("aten::_scaled_mm") as call:
        with p.call("aten::empty", parent_call_id=call) as inner:
            made(p, 512, inner, operator="aten::_scaled_mm")
        workspace = made(p, DEFAULT_BYTES, call, operator="aten::_scaled_mm")
    assert workspaces(program) == [workspace["allocation_id"]]


@pytest.mark.parametrize(
    "columns", [{"operator": "aten::add"}, {"size_bytes": DEFAULT_BYTES + 512}, {"device": "cpu"}]
)
def test_what_is_none(program: Program, columns: dict[str, Any]) -> None:
    p = program.process
    with p.call(MM) as call:
        made(p, 512, call)
        made(p, DEFAULT_BYTES, call).update(columns)
    assert workspaces(program) == []


PROGRAM = """
import threading, torch
a = torch.ones(300, 300, device="cuda")
b = torch.ones(300, device="cuda")
def products():
    return a @ a, torch.addmm(b, a, a), torch.bmm(a[None], a[None]), torch.mv(a, b)
kept = [products() for _ in range(3)]
torch.nn.functional.linear(a.half(), a.half(), b.half())
with torch.cuda.stream(torch.cuda.Stream()):
    kept.append(products())
w = a.clone().requires_grad_()
(w @ a).sum().backward()
thread = threading.Thread(target=products)
thread.start()
thread.join()
same_size = torch.empty({size} // 4, device="cuda")
"""


@pytest.mark.cuda_sim
@pytest.mark.parametrize(("capability", "size"), [(80, DEFAULT_BYTES), (90, HOPPER_BYTES)])
def test_torchs_own_on_the_simulated_device(tmp_path: Path, capability: int, size: int) -> None:
    script = tmp_path / "products.py"
    script.write_text(PROGRAM.replace("{size}", str(size)))
    trace = tmp_path / "t.memtrace"
    argv, env = simcuda.python_command(
        script,
        memory_mb=2048,
        compute_capability=capability,
        interpreter=(sys.executable, "-m", "memtrace", "run", "--quiet", "-o", str(trace)),
    )
    subprocess.run(argv, env=env, check=True)
    (key,) = open_trace(trace).datasets["allocations"].keys
    attribute_again(trace, key)
    rows = open_trace(trace).allocations.to_pylist()
    found = [row for row in rows if row["category"] == "workspace"]
    by_size: dict[int, set[tuple[int, int]]] = {size: set(), 1 << 20: set()}
    for row in found:
        by_size[row["size_bytes"]].add((row["thread_id"], row["stream"]))
    # Each thread and stream that multiplied: main on two, autograd's, another one.
    assert len(by_size[size]) == 4
    assert len(by_size[1 << 20]) == 3  # cuBLASLt: autograd had no addmm to do
    assert len(found) == 7
    # All else of that size is what the program asked for.
    (other,) = [r for r in rows if r["size_bytes"] == size and r["category"] != "workspace"]
    assert other["operator"] == "aten::empty"
