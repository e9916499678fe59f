"""Two traces compared: sums that are exact, and the same from either side."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memtrace.analyse.diff import (
    DIFF_BY,
    Change,
    Comparison,
    Diff,
    make_diff,
)
from memtrace.errors import MemtraceError
from memtrace.trace import Trace, open_trace
from trace_builder import ProcessBuilder, TraceBuilder, failing_trace, serving_trace

MIB = 2**20
MEASURES = ["allocated", "active", "reserved", "requested"]


def comparisons(diff: Diff) -> list[Comparison]:
    return [
        found
        for device in diff.devices
        for found in (device.peak, *device.stage_ends, *device.steps)
    ]


def check(diff: Diff) -> None:
    """What holds of every comparison."""
    for found in comparisons(diff):
        for changes in found.changes.values():
            assert sum(change.a_bytes for change in changes) == found.a_bytes
            assert sum(change.b_bytes for change in changes) == found.b_bytes
            assert sum(change.delta_bytes for change in changes) == found.delta_bytes
            distances = [change.distance_bytes for change in changes]
            assert distances == sorted(distances, reverse=True)


def mirrored(change: Change) -> tuple[Any, ...]:
    """An owner, as it must be where A and B have changed places."""
    old = change.key if change.was is None else change.was
    name = (change.kind, *sorted({old, change.key}))
    return (*name, change.b_bytes, change.a_bytes, change.b_blocks, change.a_blocks)


def as_it_is(change: Change) -> tuple[Any, ...]:
    old = change.key if change.was is None else change.was
    name = (change.kind, *sorted({old, change.key}))
    return (*name, change.a_bytes, change.b_bytes, change.a_blocks, change.b_blocks)


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["cpu", "cuda:0"]),
        st.integers(0, 3000),
        st.fixed_dictionaries(
            {
                "category": st.sampled_from([None, "weight", "activation", "temporary"]),
                "module": st.sampled_from([None, "h.0", "module.h.0", "_orig_mod.h.0", "head"]),
                "operator": st.sampled_from([None, "aten::mm", "aten::add"]),
                "source": st.sampled_from(
                    [None, "a.py:1 f", "a.py:4 f", "a.py:6 f", "a.py:9 f", "b.py:4 f"]
                ),
                "stack_id": st.sampled_from([None, 1, 2, 3]),
            }
        ),
        st.sampled_from(["keep", "free", "stage", "step", "training step"]),
    ),
    min_size=1,
    max_size=25,
)


def write(path: Path, rows: list[Any], *, stages: tuple[str, ...] = ("load", "serve")) -> Trace:
    """A made-up program: half of the rows in either stage."""
    builder = TraceBuilder(path)
    process = builder.process()
    process.stack(1, ("f", "/x/a.py", 1), ("main", "/x/m.py", 9))
    process.stack(2, ("f", "/x/a.py", 7), ("main", "/x/m.py", 9))
    half = len(rows) // 2
    for stage, part in zip(stages, (rows[:half], rows[half:]), strict=True):
        with process.stage(stage):
            for row in part:
                add(process, row)
    return open_trace(builder.write())


def add(process: ProcessBuilder, row: Any) -> None:
    device, size, columns, fate = row
    if fate.endswith("step"):
        with process.step(kind="training" if "training" in fate else "inference") as step:
            process.alloc(device, size, step=step["step"], **columns)
        return
    made = process.alloc(device, size, **columns)
    if fate == "free":
        process.free(made)


@settings(max_examples=20, deadline=None)
@given(left=ROWS, right=ROWS, of=st.sampled_from(["allocated", "requested", "active"]))
def test_random_programs(left: Any, right: Any, of: str) -> None:
    by = ("category", "module", "operator", "source", "stack")
    with TemporaryDirectory() as folder:
        a = write(Path(folder) / "a.memtrace", left)
        b = write(Path(folder) / "b.memtrace", right)
        diff, back = make_diff(a, b, by=by, of=of), make_diff(b, a, by=by, of=of)
        check(diff)
        check(back)
        for device in diff.devices:
            name = device.device
            assert device.peak.a_bytes == a.peak(name, of=of).total_bytes
            assert device.peak.b_bytes == b.peak(name, of=of).total_bytes
            assert [end.name for end in device.stage_ends] == ["load", "serve"]
            for end, column in ((device.stage_ends[-1], "b_bytes"),):
                rows = b.allocations.to_pylist()
                weight = "size_bytes" if of == "requested" else "block_bytes"
                held = [r[weight] for r in rows if r["device"] == name and r["free_seq"] is None]
                assert getattr(end, column) == sum(held)
        for found, other in zip(comparisons(diff), comparisons(back), strict=True):
            assert (found.what, found.name) == (other.what, other.name)
            assert found.delta_bytes == -other.delta_bytes
            for column in by:
                changes = sorted(map(as_it_is, found.changes[column]), key=str)
                assert changes == sorted(map(mirrored, other.changes[column]), key=str)
        same = make_diff(a, a, by=by, of=of)
        for found in comparisons(same):
            assert found.delta_bytes == 0
            for changes in found.changes.values():
                assert {change.status for change in changes} <= {"same"}
                assert all(change.was is None for change in changes)


@settings(max_examples=12, deadline=None)
@given(left=ROWS, right=ROWS)
def test_bytes_per_step(left: Any, right: Any) -> None:
    with TemporaryDirectory() as folder:
        sides = [
            (rows, write(Path(folder) / f"{name}.memtrace", rows))
            for name, rows in (("a", left), ("b", right))
        ]
        for device in make_diff(sides[0][1], sides[1][1]).devices:
            for rows, letter in ((left, "a"), (right, "b")):
                for step in device.steps:
                    fate = "training step" if step.name == "training" else "step"
                    number = sum(row[3] == fate for row in rows)
                    total = sum(
                        block(row) for row in rows if row[3] == fate and row[0] == device.device
                    )
                    assert getattr(step, f"{letter}_steps") == number
                    assert getattr(step, f"{letter}_bytes") == Fraction(total, number)


def block(row: Any) -> int:
    device, size = row[:2]
    return size if device == "cpu" else -(-max(size, 1) // 512) * 512


@pytest.mark.parametrize("of", MEASURES)
@pytest.mark.parametrize("by", DIFF_BY)
def test_programs_that_have_nothing_in_common(of: str, by: str, tmp_path: Path) -> None:
    a = open_trace(serving_trace(tmp_path / "a.memtrace"))
    b = open_trace(failing_trace(tmp_path / "b.memtrace"))
    diff = make_diff(a, b, by=[by], of=of)
    check(diff)
    (device,) = diff.devices
    assert device.peak.a_bytes == a.peak("cuda:0", of).total_bytes
    assert device.peak.b_bytes == b.peak("cuda:0", of).total_bytes
    assert device.stage_ends == ()
    assert device.only_a == ("stage load", "stage serve")
    assert device.only_b == ("unknown steps",)
    only = [missing.device for missing in diff.only_a]
    assert only == ([] if of == "reserved" else ["cpu"])
    assert diff.only_b == ()


def test_new_gone_grown_shrunk_and_moved(tmp_path: Path) -> None:
    traces = []
    for name, rows in (
        ("a", {"x.py:3 f": 10, "x.py:9 f": 100, "y.py:1 g": 7, "z.py:1 h": 5}),
        ("b", {"x.py:5 f": 30, "x.py:11 f": 90, "y.py:1 g": 7, "w.py:1 h": 2}),
    ):
        builder = TraceBuilder(tmp_path / f"{name}.memtrace")
        process = builder.process()
        for source, size in rows.items():
            process.alloc("cpu", size, source=source)
        traces.append(open_trace(builder.write()))
    (device,) = make_diff(*traces, by=["source"]).devices
    told = [(c.key, c.was, c.delta_bytes, c.status) for c in device.peak.changes["source"]]
    assert told == [
        ("x.py:5 f", "x.py:3 f", 20, "grown"),
        ("x.py:11 f", "x.py:9 f", -10, "shrunk"),
        ("z.py:1 h", None, -5, "gone"),
        ("w.py:1 h", None, 2, "new"),
        ("y.py:1 g", None, 0, "same"),
    ]


def test_the_last_stage_of_a_name_ends_it(tmp_path: Path) -> None:
    traces = []
    for name, sizes in (("a", [1, 10]), ("b", [2, 20, 200])):
        builder = TraceBuilder(tmp_path / f"{name}.memtrace")
        process = builder.process()
        for size in sizes:
            with process.stage("work"):
                process.alloc("cpu", size)
        process.alloc("cpu", 5000)
        traces.append(open_trace(builder.write()))
    (end,) = make_diff(*traces).devices[0].stage_ends
    assert (end.a_bytes, end.b_bytes) == (11, 222)


def test_rows_that_do_not_add_up_are_rows_too(tmp_path: Path) -> None:
    whole = open_trace(serving_trace(tmp_path / "a.memtrace"))
    builder = TraceBuilder(tmp_path / "b.memtrace")
    process = builder.process()
    process.alloc("cuda:0", 512)
    process.alloc("cuda:0", 1024)
    process.rows["allocations"][0]["block_bytes"] = 4096
    lossy = open_trace(builder.write())
    diff = make_diff(whole, lossy, device="cuda:0")
    check(diff)
    changes = {change.kind: change for change in diff.devices[0].peak.changes["category"]}
    assert changes["excess"].b_bytes == -(4096 - 512)
    assert diff.devices[0].peak.b_bytes == 1536


def test_devices_of_one_only(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "a.memtrace")
    builder.process(cpu_on=False).alloc("cuda:0", 512)
    a = open_trace(builder.write())
    b = open_trace(serving_trace(tmp_path / "b.memtrace"))
    (missing,) = make_diff(a, b).only_b
    assert (missing.device, missing.peak_bytes, missing.recorded) == ("cpu", 3 * MIB, False)
    assert make_diff(b, b).only_b == ()
    only = make_diff(a, b, device="cpu")
    assert (only.devices, only.only_b) == ((), (missing,))
    with pytest.raises(
        MemtraceError, match="no memory of cuda:5 in either trace; they have cuda:0"
    ):
        make_diff(a, b, device="cuda:5")
    with pytest.raises(MemtraceError, match="no comparison by step"):
        make_diff(a, b, by=["step"])


def test_what_was_freed_at_the_instant_is_not_held_and_what_was_there_was_not_allocated(
    tmp_path: Path,
) -> None:
    def make(name: str) -> Trace:
        builder = TraceBuilder(tmp_path / name)
        process = builder.process()
        with process.stage("load"):
            process.alloc("cuda:0", 512, category="weight")
            process.free(process.alloc("cpu", 4096, category="temporary"))
        with process.step(kind="inference") as step:
            for action in ("preexisting", "alloc"):
                process.alloc("cpu", 100, action=action, step=step["step"], category=action)
        return open_trace(builder.write())

    (found,) = make_diff(make("a"), make("b"), device="cpu").devices
    (end,) = found.stage_ends
    assert (end.a_bytes, end.changes["category"]) == (0, ())
    (steps,) = found.steps
    assert steps.a_bytes == 100
    assert [change.key for change in steps.changes["category"]] == ["alloc"]


def test_a_line_that_another_moved_to_is_gone(tmp_path: Path) -> None:
    """Lines 10 and 11 of a function move to 20 and 21: what was on 20 is not what is there now."""

    def make(name: str, *lines: int) -> Trace:
        builder = TraceBuilder(tmp_path / name)
        process = builder.process()
        for number, line in enumerate(lines, 1):
            process.alloc("cpu", 1000 * number, source=f"m.py:{line} f")
        return open_trace(builder.write())

    diff = make_diff(make("a", 20, 10, 11), make("b", 21, 20), by=["source"])
    told = {(c.was, c.key): (c.a_bytes, c.b_bytes) for c in diff.devices[0].peak.changes["source"]}
    assert told == {
        (None, "m.py:20 f"): (1000, 0),
        ("m.py:10 f", "m.py:20 f"): (2000, 2000),
        ("m.py:11 f", "m.py:21 f"): (3000, 1000),
    }
