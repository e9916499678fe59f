"""Operators and modules as nested slices, a track a thread."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memtrace.export.perfetto.calls import edges
from memtrace.outputs import Selection
from memtrace.trace import Trace, open_trace
from perfetto_agreement import check_agreement, check_nesting
from perfetto_reader import Slice, exported
from trace_builder import ORIGIN_NS, TraceBuilder


def trace_of(
    path: Path,
    calls: list[tuple[int, int | None, str, int, int | None]],
    *,
    rows_per_group: int = 100,
    modules: dict[int, str] | None = None,
    steps: list[tuple[str, int, int | None]] = [],  # noqa: B006 - never changed
    stack_modules: tuple[str, ...] = (),
) -> Trace:
    """Rows of `operators`: (call, parent, name, start, end), in the order in which they ended."""
    builder = TraceBuilder(path)
    process = builder.process()
    process.alloc("cpu", 1)
    for call_id, parent, name, start, end in calls:
        process.operator(
            call_id, name, parent_call_id=parent, start_time_ns=start, end_time_ns=end,
            module=(modules or {}).get(call_id),
        )  # fmt: skip
    for number, (root, start, end) in enumerate(steps):
        process.rows["steps"].append(
            {"step": number, "root_module": root, "thread_id": 1, "start_time_ns": start,
             "end_time_ns": end}
        )  # fmt: skip
    for number, module in enumerate(stack_modules):
        process.stack(number + 1, ("f", "f.py", 1))
        process.rows["stacks"][-1]["module"] = module
    return open_trace(builder.write(rows_per_group=rows_per_group))


def shown(slices: list[Slice]) -> list[tuple[int, str, int, int]]:
    """(depth, name, start, end) of each, in the order of starts."""
    return [
        (item.depth, item.name, item.start_ns - ORIGIN_NS, (item.end_ns or 0) - ORIGIN_NS)
        for item in slices
    ]


@pytest.mark.parametrize("rows_per_group", [1, 2, 100])
def test_calls_nest_even_when_they_begin_and_end_at_once(
    tmp_path: Path, rows_per_group: int
) -> None:
    calls = [
        (3, 2, "inner", 10, 20), (2, 1, "middle", 10, 20), (1, None, "outer", 10, 20),
        (5, 4, "short", 20, 20), (4, None, "next", 20, 30), (6, None, "alone", 30, 30),
    ]  # fmt: skip
    trace = trace_of(tmp_path / "x", calls, rows_per_group=rows_per_group)
    parsed = exported(trace)
    assert shown(parsed.slices["operators of thread 1"]) == [
        (0, "outer", 10, 20), (1, "middle", 10, 20), (2, "inner", 10, 20),
        (0, "next", 20, 30), (1, "short", 20, 21), (0, "alone", 30, 31),
    ]  # fmt: skip
    check_agreement(trace, parsed)


def test_a_call_whose_end_was_lost_is_left_out(tmp_path: Path) -> None:
    calls = [(2, 1, "inner", 10, 20), (1, None, "lost", 5, None), (3, None, "after", 30, 40)]
    trace = trace_of(tmp_path / "x", calls)
    assert shown(exported(trace).slices["operators of thread 1"]) == [
        (0, "inner", 10, 20), (0, "after", 30, 40),
    ]  # fmt: skip


def test_threads_have_tracks_of_their_own(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    process.alloc("cpu", 1)
    for call_id in range(20):
        process.operator(
            call_id, f"op{call_id}", thread_id=call_id % 3, start_time_ns=call_id,
            end_time_ns=call_id + 5,
        )  # fmt: skip
    parsed = exported(open_trace(builder.write()))
    for thread in range(3):
        found = [item.name for item in parsed.slices[f"operators of thread {thread}"]]
        assert found == [f"op{call_id}" for call_id in range(thread, 20, 3)]


def test_calls_that_cross_are_cut(tmp_path: Path) -> None:
    calls = [(1, None, "a", 0, 10), (2, None, "b", 5, 15), (3, None, "c", 6, 12)]
    parsed = exported(trace_of(tmp_path / "x", calls))
    assert shown(parsed.slices["operators of thread 1"]) == [
        (0, "a", 0, 10), (1, "b", 5, 10), (2, "c", 6, 10),
    ]  # fmt: skip


def test_a_window_cuts_calls(tmp_path: Path) -> None:
    calls = [
        (2, 1, "before", 0, 9), (3, 1, "into", 5, 15), (4, 1, "out", 16, 40),
        (5, 1, "after", 41, 42), (1, None, "around", 0, 50),
    ]  # fmt: skip
    modules = dict.fromkeys(range(1, 6), "m")
    trace = trace_of(tmp_path / "x", calls, modules=modules, steps=[("Net", 0, 60)])
    parsed = exported(trace, Selection(window_ns=(10, 20)))
    assert shown(parsed.slices["operators of thread 1"]) == [
        (0, "around", 10, 20), (1, "into", 10, 15), (1, "out", 16, 20),
    ]  # fmt: skip
    assert shown(parsed.slices["modules of thread 1"]) == [(0, "Net", 10, 20), (1, "m", 10, 20)]


spans = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 10)), max_size=25)


@given(spans)
def test_edges_are_balanced_whatever_the_calls(given_spans: list[tuple[int, int]]) -> None:
    ordered = sorted(given_spans, key=lambda span: (span[0], -span[1]))
    start = np.array([first for first, _ in ordered], np.int64)
    end = start + np.array([length for _, length in ordered], np.int64)
    times, slices, begins = edges(start, end)
    assert times.tolist() == sorted(times.tolist())
    around: list[int] = []
    for time, item, is_begin in zip(times.tolist(), slices.tolist(), begins.tolist(), strict=True):
        if is_begin:
            assert time == start[item]
            around.append(item)
        else:
            assert around.pop() == item
            assert start[item] < time <= max(end[item], start[item] + 1)
    assert not around


def test_modules_are_around_the_calls_in_them(tmp_path: Path) -> None:
    calls = [
        (number, None, "op", 10 * number, 10 * number + 5) for number in range(1, 9)
    ]  # fmt: skip
    modules = {
        1: "net.h.0.attn", 2: "net.h.0.attn.c", 3: "net.h.0.mlp", 4: "net.h.1.attn", 6: "net",
        7: "net.h.0.attn",
    }  # fmt: skip
    called = ("net", "net.h.0", "net.h.0.attn", "net.h.1")  # net.h is a list: nothing calls it
    trace = trace_of(
        tmp_path / "x", calls, modules=modules, steps=[("Net", 5, 47), ("Net", 65, None)],
        stack_modules=called,
    )  # fmt: skip
    slices = exported(trace).slices["modules of thread 1"]
    assert shown(slices) == [
        (0, "Net", 5, 47), (1, "net", 10, 45), (2, "net.h.0", 10, 35),
        (3, "net.h.0.attn", 10, 25), (4, "net.h.0.attn.c", 20, 25), (3, "net.h.0.mlp", 30, 35),
        (2, "net.h.1", 40, 45), (3, "net.h.1.attn", 40, 45),
        (0, "net", 60, 65),
        (0, "Net", 65, 85), (1, "net", 70, 75), (2, "net.h.0", 70, 75), (3, "net.h.0.attn", 70, 75),
    ]  # fmt: skip


@pytest.mark.parametrize("most_waiting", [0, 1 << 20])
@pytest.mark.parametrize("rows_per_group", [1, 3, 100])
def test_modules_do_not_depend_on_row_groups(
    tmp_path: Path, rows_per_group: int, most_waiting: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memtrace.export.perfetto.calls._MOST_WAITING", most_waiting)
    calls = [(number, None, "op", 10 * number, 10 * number + 5) for number in range(1, 9)]
    modules = {number: f"net.{number // 3}.{number // 2}" for number in range(1, 9)}
    called = tuple(f"net.{number}" for number in range(3))
    options = {"modules": modules, "stack_modules": called, "steps": [("Net", 5, 200)]}
    whole = trace_of(tmp_path / "x", calls, **options)
    split = trace_of(tmp_path / "y", calls, rows_per_group=rows_per_group, **options)
    found = [shown(exported(trace).slices["modules of thread 1"]) for trace in (whole, split)]
    assert found[0] == found[1]
    assert len(found[0]) > 6


def test_a_module_ends_where_the_next_call_begins(tmp_path: Path) -> None:
    # A scope of module "a" in which "b" runs, which is not in it by its path.
    calls = [(2, 1, "op", 20, 30), (1, None, "scope", 10, 50), (3, None, "op", 60, 70)]
    trace = trace_of(tmp_path / "x", calls, modules={1: "a", 2: "b", 3: "a"})
    slices = exported(trace).slices["modules of thread 1"]
    check_nesting("modules", slices)
    assert shown(slices) == [(0, "a", 10, 20), (0, "b", 20, 50), (0, "a", 60, 70)]


def test_a_path_of_very_many_modules(tmp_path: Path) -> None:
    path = ".".join("m" * 1 for _ in range(2000))
    called = tuple(path[: 2 * length + 1] for length in range(300))
    trace = trace_of(
        tmp_path / "x", [(1, None, "op", 1, 2)], modules={1: path}, stack_modules=called
    )
    slices = exported(trace).slices["modules of thread 1"]
    assert [item.depth for item in slices] == list(range(48))
    assert slices[-1].name == path
