"""A curve in bins: no extreme is lost, whatever the number of bins."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from memtrace.analyse.curve import _Bins, read_curves
from memtrace.trace import open_trace
from trace_builder import TraceBuilder

Steps = st.lists(st.tuples(st.integers(0, 50), st.integers(-100, 100)), min_size=1, max_size=300)


@settings(max_examples=200, deadline=None)
@given(Steps, st.integers(4, 40), st.integers(1, 50))
def test_no_extreme_is_lost(steps: list[tuple[int, int]], most_bins: int, chunk: int) -> None:
    time_ns = np.cumsum([gap for gap, _ in steps])
    allocated = np.cumsum([delta for _, delta in steps]) + 100_000
    seq = np.arange(len(steps)) * 3 + 5
    bins = _Bins(most_bins)
    for at in range(0, len(steps), chunk):
        part = slice(at, at + chunk)
        bins.add(seq[part], time_ns[part], allocated[part], 2 * allocated[part])
    curve = bins.curve()
    assert len(curve) <= most_bins
    assert curve.first_seq == 5
    # Each bin tells of the events from its own first one to the next bin's.
    first = np.searchsorted(seq, np.append(5, curve.last_seq[:-1] + 1))
    for place, (a, b) in enumerate(zip(first, np.append(first[1:], len(seq)), strict=True)):
        values = allocated[a:b]
        assert curve.least_bytes[place] == values.min()
        assert curve.most_bytes[place] == values.max()
        assert curve.last_bytes[place] == values[-1]
        highest = a + int(values.argmax())
        assert curve.most_seq[place] == seq[highest]
        assert curve.most_ns[place] == time_ns[highest]
        assert (curve.begin_ns[place], curve.last_ns[place]) == (time_ns[a], time_ns[b - 1])
        assert curve.reserved_most_bytes[place] == 2 * values.max()
        assert curve.reserved_least_bytes[place] == 2 * values.min()
    assert curve.most_bytes[curve.peak] == allocated.max()
    assert curve.most_seq[curve.peak] == seq[allocated.argmax()]


def test_a_bin_ends_at_a_long_silence() -> None:
    bins = _Bins(16)
    seq = np.arange(64)
    time_ns = np.where(seq < 21, seq, seq + 1_000_000)
    bins.add(seq, time_ns, seq * 10, seq * 10)
    curve = bins.curve()
    assert 20 in curve.last_seq  # 21 events are no whole number of bins
    assert 1_000_021 in curve.begin_ns


def test_devices_are_apart_and_a_window_is_part(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    p = builder.process()
    for size in (512, 1024, 2048):
        p.alloc("cuda:0", size)
        p.alloc("cpu", 7)
    trace = open_trace(builder.write())
    curves = read_curves(trace, p.key, ["cuda:0", "cpu", "cuda:1"], most_bins=100)
    assert list(curves) == ["cuda:0", "cpu"]
    assert curves["cuda:0"].most_bytes.tolist() == [512, 1536, 3584]
    assert curves["cpu"].last_bytes.tolist() == [7, 14, 21]
    some = read_curves(trace, p.key, ["cuda:0"], most_bins=100, window_ns=(2_000, 4_000))
    assert some["cuda:0"].most_bytes.tolist() == [512, 1536]  # the first stood as it began
    assert some["cuda:0"].begin_ns.tolist() == [2_000, 3_000]
    assert some["cuda:0"].first_seq == 0
    assert read_curves(trace, p.key, ["cpu"], most_bins=9, window_ns=(90_000, 91_000)) == {}
