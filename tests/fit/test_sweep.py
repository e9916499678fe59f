"""The line through the peaks of runs, and the largest value that fits."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import memtrace
from memtrace.fit.sweep import Curve, Run, Use, curves, fit_line, read_run
from memtrace.report.sweep import curve_lines, unheard
from trace_builder import TraceBuilder

MIB = 1 << 20


def run(
    value: int, peak: int, *, usable: int | None = None, failed: str = "", oom: bool = False,
    device: str = "cuda:0", load: int = 0, **held: int,
) -> Run:  # fmt: skip
    reserved = None if device == "cpu" else max(peak, load)
    use = Use(device, peak // 2, max(peak, load), reserved, peak, usable)
    return Run({"batch": value, **held}, None, failed, oom, (use,), (value,))


def curve(*runs: Run, capacity_bytes: int | None = None) -> Curve:
    (found,) = curves(runs, "batch", capacity_bytes=capacity_bytes)
    return found


@given(
    st.integers(0, 1 << 36),
    st.integers(0, 1 << 30),
    st.lists(st.integers(1, 512), min_size=2, max_size=6, unique=True),
)
def test_a_straight_line_is_found_again(fixed: int, each: int, values: list[int]) -> None:
    line = fit_line(values, [fixed + each * value for value in values])
    assert line is not None
    assert line.squared_bytes == 0
    assert line.at(1000) == pytest.approx(fixed + each * 1000, rel=1e-6, abs=1)
    assert line.residual < 1e-9
    assert line.proven == (len(values) > 2)


def test_a_curve_is_taken_only_where_points_show_one() -> None:
    values = [64, 128, 256, 512]
    line = fit_line(values, [MIB + 10 * v * v for v in values])
    assert line is not None
    assert line.squared_bytes == pytest.approx(10)
    assert line.proven
    two = fit_line(values[:2], [MIB + 10 * v * v for v in values[:2]])
    assert two is not None
    assert two.squared_bytes == 0
    assert not two.proven


def test_one_value_makes_no_line() -> None:
    assert fit_line([4], [MIB]) is None
    assert fit_line([4, 4], [MIB, MIB]) is None


@given(st.integers(0, 50), st.integers(1, 50), st.integers(0, 5000))
def test_the_largest_is_the_last_that_fits(fixed: int, each: int, capacity: int) -> None:
    found = curve(
        run(1, (fixed + each) * MIB), run(2, (fixed + 2 * each) * MIB),
        capacity_bytes=capacity * MIB,
    ).largest  # fmt: skip
    assert found is not None
    assert found == pytest.approx(max((capacity - fixed) // each, 0), abs=1)


def test_what_loading_takes_must_fit_too() -> None:
    runs = (run(1, 2 * MIB, load=100 * MIB), run(2, 3 * MIB, load=100 * MIB))
    assert curve(*runs, capacity_bytes=99 * MIB).largest == 0
    assert curve(*runs, capacity_bytes=101 * MIB).largest == 100


def test_on_the_recorded_device_runs_that_failed_say_more_than_the_line() -> None:
    runs = [run(b, b * MIB, usable=100 * MIB) for b in (1, 2, 4)]
    assert curve(*runs).largest == 100
    failed = run(64, 60 * MIB, usable=100 * MIB, failed="exit status 1: out of memory", oom=True)
    assert curve(*runs, failed).largest == 63
    assert curve(*runs, failed, capacity_bytes=200 * MIB).largest == 200
    fits = [run(100, 100 * MIB, usable=100 * MIB), run(128, 99 * MIB, usable=100 * MIB)]
    assert curve(*runs, *fits).largest == 128


def test_a_run_that_failed_is_no_point_of_the_line() -> None:
    found = curve(run(1, MIB), run(2, 2 * MIB), run(4, MIB, failed="exit status 3"))
    assert found.line is not None
    assert found.line.points == 2
    assert [one.failed for one in found.runs] == ["", "", "exit status 3"]


def test_each_length_has_a_curve_of_its_own() -> None:
    runs = [run(b, b * s * MIB, sequence=s) for b in (1, 2) for s in (8, 16)]
    found = curves(runs, "batch", capacity_bytes=80 * MIB)
    assert [(one.held, one.largest) for one in found] == [
        ({"sequence": 8}, 10),
        ({"sequence": 16}, 5),
    ]


def test_nothing_grows() -> None:
    found = curve(run(1, MIB), run(2, MIB), run(4, MIB), capacity_bytes=2 * MIB)
    assert found.largest is None
    assert "hardly matters" in curve_lines(found)[-1]


def test_a_program_that_was_not_told_is_said() -> None:
    deaf = [Run({"batch": b}, None, "", False, (), (5,)) for b in (1, 2)]
    assert "every run called its models with batch 5" in unheard(deaf)
    assert not unheard([Run({"batch": b}, None, "", False, (), (b,)) for b in (1, 2)])
    assert not unheard(deaf[:1])


def test_a_run_is_read_from_its_trace(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process(
        devices='[{"device": "cuda:0", "name": "H", "total_bytes": 1073741824}]'
    )
    loading = process.alloc("cuda:0", 9 * MIB, block_bytes=9 * MIB)
    process.free(loading)
    process.alloc("cuda:0", MIB, block_bytes=MIB)
    process.segment("cuda:0", 4 * MIB)
    with process.step(batch_size=3):
        process.free(process.alloc("cuda:0", 2 * MIB, block_bytes=2 * MIB))
        process.segment("cuda:0", 2 * MIB)
    process.oom("cuda:0", 1 << 40, MIB)
    found = read_run(memtrace.open(builder.write()), {"batch": 3}, failed="exit status 1")
    (use,) = found.uses
    assert (use.idle_bytes, use.peak_bytes, use.reserved_bytes) == (MIB, 9 * MIB, 6 * MIB)
    assert use.called_bytes == 6 * MIB
    assert use.usable_bytes is not None
    assert 0 < use.usable_bytes < 1 << 30
    assert found.failed == "exit status 1: out of memory of cuda:0"
    assert found.out_of_memory
    assert found.batch_sizes == (3,)
    went_on = read_run(memtrace.open(builder.path), {"batch": 3}, failed="")
    assert went_on.failed == "out of memory of cuda:0, and went on"
