"""Operator calls of real programs: where they were made, and those that a kill cut off."""

from __future__ import annotations

import signal
import textwrap
from pathlib import Path
from typing import Any

import pytest

import memtrace
from program_runs import recorded

pytest.importorskip("torch", exc_type=ImportError)  # or one that does not load


def operators(tmp_path: Path, text: str, *, status: int = 0) -> list[dict[str, Any]]:
    """The rows of `operators` that a program leaves."""
    program = tmp_path / "program.py"
    program.write_text("import os, torch, memtrace\nfrom torch import nn\n" + textwrap.dedent(text))
    trace = tmp_path / "t.memtrace"
    shown = recorded(trace, program, cwd=tmp_path)
    assert shown.status == status, shown.err
    return memtrace.open(trace).operators.to_pylist()


def test_a_call_has_the_module_and_the_stack_of_what_was_allocated_in_it(tmp_path: Path) -> None:
    rows = operators(tmp_path, """
        from torch.profiler import record_function
        net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
        net(torch.ones(2, 8))  # from here on the model is known
        with record_function("request"):
            kept = net(torch.ones(2, 8))
            alone = torch.ones(7)
    """)  # fmt: skip
    (request,) = (row for row in rows if row["name"] == "request")
    found = [row for row in rows if row["parent_call_id"] == request["call_id"]]
    assert [(row["name"], row["module"]) for row in found if row["module"]] == [
        ("aten::linear", "0"), ("aten::relu", "1"), ("aten::linear", "2"),
    ]  # fmt: skip
    assert all(row["stack_id"] is not None for row in found if row["allocated_bytes"])
    inner = [row for row in rows if row["name"] == "aten::addmm"]
    assert [row["module"] for row in inner] == ["0", "2"] * 2
    # A user's scope is Python code with many places in it.
    assert (request["module"], request["stack_id"]) == (None, None)


@pytest.mark.parametrize("listener", ["nobody", "a profiler"])
def test_a_factory_inside_another_operator_is_part_of_it(tmp_path: Path, listener: str) -> None:
    rows = operators(tmp_path, f"""
        import contextlib
        from torch.profiler import profile, record_function
        others = profile() if {listener == "a profiler"} else contextlib.nullcontext()
        with others:
            for grad in (False, True):
                with torch.set_grad_enabled(grad):
                    kept = torch.ones(1000) + 1
                    alone = torch.empty(500)
                    alike = torch.empty_like(alone)
                    with record_function("scope"):
                        inside = torch.empty(300)
                    normed = nn.functional.layer_norm(torch.ones(4, 8), (8,))
    """)  # fmt: skip
    names = {row["call_id"]: row["name"] for row in rows}
    factories = [
        (row["name"], names.get(row["parent_call_id"]), row["allocated_bytes"])
        for row in rows
        if row["name"].startswith("aten::empty")
    ]
    assert factories == [
        ("aten::empty", None, 2000), ("aten::empty_like", None, 2000),
        ("aten::empty", "scope", 1200),
    ] * 2  # fmt: skip
    assert [row["allocated_bytes"] for row in rows if row["name"] == "aten::ones"] == [
        4000,
        128,
    ] * 2
    # So memory is in the call whose name it bears.
    for row in memtrace.open(tmp_path / "t.memtrace").allocations.to_pylist():
        if row["operator"] is not None:
            assert names[row["operator_call_id"]] == row["operator"]


def test_the_calls_that_a_kill_cut_off_are_there(tmp_path: Path) -> None:
    rows = operators(tmp_path, """
        from torch.profiler import record_function
        with record_function("request"):
            kept = torch.ones(1000) + 1
            os.kill(os.getpid(), 9)
    """, status=-signal.SIGKILL)  # fmt: skip
    ids = {row["call_id"] for row in rows}
    assert {row["parent_call_id"] for row in rows} <= {*ids, None}
    (request,) = (row for row in rows if row["end_time_ns"] is None)
    assert request["name"] is None
    assert request["allocated_bytes"] >= 8000


def test_an_operator_that_is_gone_does_not_lend_its_name(tmp_path: Path) -> None:
    # Its name's place in memory is soon another one's, which the cache of names must notice.
    rows = operators(tmp_path, """
        from torch.library import Library
        for number in range(300):
            library = Library("mine", "FRAGMENT")
            name = f"{'with_a_long_name' if number % 3 else 'n'}_{number:03}"
            library.define(f"{name}(Tensor x) -> Tensor")
            library.impl(name, lambda x: x + 1, "CPU")
            operator = getattr(torch.ops.mine, name)
            operator(torch.ones(3))
            library._destroy()
            if hasattr(torch.ops.mine, name):
                delattr(torch.ops.mine, name)
            del operator
    """)  # fmt: skip
    names = [row["name"] for row in rows if row["name"].startswith("mine::")]
    assert [int(name[-3:]) for name in names] == list(range(300))


def test_names_that_are_made_at_each_call(tmp_path: Path) -> None:
    rows = operators(tmp_path, """
        for turn in range(2):
            for number in range(600):
                with torch.profiler.record_function(f"part {number:03}"):
                    torch.ones(3)
        with torch.profiler.record_function("aten::ones"):
            torch.ones(3)
    """)  # fmt: skip
    parts = [row["name"] for row in rows if row["name"].startswith("part")]
    assert parts == [f"part {number:03}" for number in (*range(600), *range(600))]
    assert [row["name"] for row in rows].count("aten::ones") == 1202
