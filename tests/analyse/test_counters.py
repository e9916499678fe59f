"""The running totals: exact peaks, first instants, and no row group skipped that matters."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memtrace.analyse.counters import (
    MEASURES,
    highest,
    last_moment,
    moment_at_seq,
    next_allocation,
    settled,
)
from memtrace.errors import MemtraceError
from memtrace.trace import Trace
from random_programs import PROGRAMS, recorded


def brute_force(trace: Trace, device: str, of: str) -> tuple[int, int] | None:
    """(total, seq) of the peak, by going through all rows in order."""
    best: tuple[int, int] | None = None
    requested = 0
    sizes = {row["allocation_id"]: row["size_bytes"] for row in trace.allocations.to_pylist()}
    for row in trace.events.to_pylist():
        if row["device"] != device:
            continue
        if row["action"] == "alloc":
            requested += sizes[row["allocation_id"]]
        freed = "free_requested" if device == "cpu" else "free_completed"
        if row["action"] == freed:
            requested -= sizes[row["allocation_id"]]
        total = requested if of == "requested" else row[f"{of}_bytes"]
        if best is None or total > best[0]:
            best = (total, row["seq"])
    return best


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(program=PROGRAMS, rows_per_group=st.integers(1, 7))
def test_the_peak_is_the_first_maximum(
    tmp_path_factory: pytest.TempPathFactory,
    program: list[tuple[str, str, int]],
    rows_per_group: int,
) -> None:
    trace = recorded(tmp_path_factory.mktemp("t") / "x.memtrace", program, rows_per_group)
    key = trace.process_list[0].key
    for device in trace.devices:
        for of in MEASURES:
            found = highest(trace, process=key, device=device, of=of)
            expected = brute_force(trace, device, of)
            if of == "requested" and found is None:
                assert expected is not None
                assert expected[0] == 0
            elif of == "requested":
                # Only allocations move it: where nothing is live, any earlier event would do.
                assert found is not None
                assert expected is not None
                assert found.total_bytes == expected[0]
                assert found.seq == expected[1] or expected[0] == 0
            else:
                assert found is not None
                assert (found.total_bytes, found.seq) == expected


def test_ties_go_to_the_first_event(tmp_path: Path) -> None:
    program = [("alloc", "cuda:0", 512), ("free", "cuda:0", 0)] * 9
    trace = recorded(tmp_path / "x.memtrace", program, 2)
    key = trace.process_list[0].key
    for of in MEASURES:
        peak = highest(trace, process=key, device="cuda:0", of=of)
        assert peak is not None
        assert peak.seq == 0


def test_an_unknown_measure_is_refused(tmp_path: Path) -> None:
    trace = recorded(tmp_path / "x.memtrace", [("alloc", "cpu", 1)], 4)
    with pytest.raises(MemtraceError, match="no such measure: rss"):
        highest(trace, process=trace.process_list[0].key, device="cpu", of="rss")


def test_moments(tmp_path: Path) -> None:
    program = [("alloc", "cpu", 5), ("segment", "cuda:0", 0), ("alloc", "cuda:0", 9)]
    trace = recorded(tmp_path / "x.memtrace", program, 1)
    key = trace.process_list[0].key
    segment = moment_at_seq(trace, process=key, device="cuda:0", seq=1)
    assert (segment.action, segment.reserved_bytes) == ("segment_alloc", 2**21)
    following = next_allocation(trace, segment)
    assert following is not None
    assert following.seq == 2
    assert settled(trace, segment) == following
    assert settled(trace, following) == following
    assert next_allocation(trace, moment_at_seq(trace, process=key, device="cpu", seq=0))
    last = last_moment(trace, process=key, device="cpu")
    assert last is not None
    assert last.seq == 0
    early = last_moment(trace, process=key, device="cuda:0", until_ns=segment.time_ns)
    assert early == segment
    assert last_moment(trace, process=key, device="cuda:0", until_ns=0) is None
    with pytest.raises(MemtraceError, match="no row 99"):
        moment_at_seq(trace, process=key, device="cpu", seq=99)


def test_a_segment_that_came_to_nothing_stands_for_itself(tmp_path: Path) -> None:
    program = [("segment", "cuda:0", 0), ("segment", "cuda:0", 0), ("alloc", "cuda:0", 9)]
    trace = recorded(tmp_path / "x.memtrace", program, 4)
    key = trace.process_list[0].key
    first = moment_at_seq(trace, process=key, device="cuda:0", seq=0)
    assert settled(trace, first) == first
