"""Counters, read back with perfetto's own protobufs."""

from __future__ import annotations

from pathlib import Path

import pytest

from memtrace.outputs import Selection
from memtrace.trace import Trace, open_trace
from perfetto_reader import exported
from trace_builder import ORIGIN_NS, TraceBuilder, serving_trace


@pytest.fixture
def serving(tmp_path: Path) -> Trace:
    return open_trace(serving_trace(tmp_path / "serve.memtrace"))


def changes(trace: Trace, device: str, column: str) -> list[tuple[int, int]]:
    """What the counter must show: the value at each event that changed it."""
    found: list[tuple[int, int]] = []
    for row in trace.events.to_pylist():
        if row["device"] == device and (not found or found[-1][1] != row[column]):
            found.append((ORIGIN_NS + row["time_ns"], row[column]))
    return found


def test_counters_are_the_traces_own_totals(serving: Trace) -> None:
    parsed = exported(serving)
    for of in ("allocated", "active", "reserved"):
        expected = changes(serving, "cuda:0", f"{of}_bytes")
        assert parsed.counters[f"cuda:0 {of}"] == expected
        assert len(expected) > 3
    assert parsed.counters["cpu allocated"] == changes(serving, "cpu", "allocated_bytes")
    assert "cpu reserved" not in parsed.counters
    shared = {parsed.named(f"cuda:0 {of}").counter.y_axis_share_key for of in ("active", "weight")}
    assert shared == {"cuda:0"}


def test_readings_from_outside(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    process.sample("host", "rss", "rss", 900)
    process.sample("cuda:0", "nvml", "process", 70)
    process.alloc("cuda:0", 512)
    process.sample("host", "rss", "rss", 1100)
    process.sample("host", "pss", "pss", None)
    process.sample("cuda:0", "torch", "allocated", 512)
    trace = open_trace(builder.write())
    counters = exported(trace).counters
    assert [value for _, value in counters["host resident (RSS)"]] == [900, 1100]
    assert [value for _, value in counters["cuda:0 process (nvml)"]] == [70]
    assert not any("torch" in name or "PSS" in name for name in counters)
    assert "host resident (RSS)" not in exported(trace, Selection("cuda:0")).counters
    builder = TraceBuilder(tmp_path / "y.memtrace")
    process = builder.process()
    process.alloc("cpu", 512)
    process.sample("host", "rss", "rss", 900)
    process.sample("cuda:0", "nvml", "process", 70)
    counters = exported(open_trace(builder.write()), Selection("cpu")).counters
    assert "host resident (RSS)" in counters
    assert "cuda:0 process (nvml)" not in counters


def test_categories_add_up_to_what_is_allocated(serving: Trace) -> None:
    parsed = exported(serving)
    group = parsed.named("cuda:0 by category")
    names = [track.name for track in parsed.tracks.values() if track.parent_uuid == group.uuid]
    assert sorted(names) == [
        "cuda:0 activation", "cuda:0 kv_cache", "cuda:0 other", "cuda:0 weight",
    ]  # fmt: skip
    mib = 2**20
    assert [value for _, value in parsed.counters["cuda:0 weight"]] == [
        16 * mib * (layer + 1) for layer in range(6)
    ]
    assert parsed.counters["cuda:0 activation"][-1][1] == 0
    assert max(value for _, value in parsed.counters["cuda:0 activation"]) == 21 * mib
    assert (
        sum(parsed.counters[name][-1][1] for name in names)
        == (parsed.counters["cuda:0 allocated"][-1][1])
    )


def test_no_counter_goes_back_in_time_when_clocks_disagree(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    for size in (512, 1024, 2048):
        process.alloc("cuda:0", size)
    process.rows["events"][1]["time_ns"] = 10
    counters = exported(open_trace(builder.write())).counters
    for name in ("cuda:0 allocated", "cuda:0 other"):
        times = [time for time, _ in counters[name]]
        assert times == sorted(times)
        assert len(times) == 3


def test_a_window_starts_with_the_value_before_it(serving: Trace) -> None:
    parsed = exported(serving)
    whole = parsed.counters["cuda:0 allocated"]
    start, end = whole[4][0] - ORIGIN_NS + 1, whole[9][0] - ORIGIN_NS
    part = exported(serving, Selection(device="cuda:0", window_ns=(start, end)))
    assert part.counters["cuda:0 allocated"] == [(ORIGIN_NS + start, whole[4][1]), *whole[5:10]]
    assert not any("cpu" in name or "RSS" in name for name in part.counters)
    at_once = Selection(window_ns=(whole[5][0] - ORIGIN_NS - 1, end))
    assert exported(serving, at_once).counters["cuda:0 allocated"] == [
        (whole[5][0] - 1, whole[4][1]), *whole[5:10],
    ]  # fmt: skip
    reserved = [value for time, value in parsed.counters["cuda:0 reserved"] if time < whole[4][0]]
    assert part.counters["cuda:0 reserved"][0] == (ORIGIN_NS + start, reserved[-1])


def test_a_window_has_every_category_that_is_held_in_it(serving: Trace) -> None:
    parsed = exported(serving)
    last = parsed.counters["cuda:0 allocated"][-1][0] - ORIGIN_NS
    part = exported(serving, Selection(window_ns=(last + 1, last + 2)))
    mib = 2**20
    assert part.counters["cuda:0 weight"] == [(ORIGIN_NS + last + 1, 96 * mib)]
    assert part.counters["cuda:0 kv_cache"] == [(ORIGIN_NS + last + 1, 6 * mib)]
    assert "cuda:0 activation" not in part.counters
    assert part.counters["host resident (RSS)"] == [(ORIGIN_NS + last + 1, 900 * mib)]


def test_more_rows_than_are_encoded_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memtrace.export.perfetto.packets.ROWS_AT_A_TIME", 3)
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    for size in range(1, 12):
        process.alloc("cuda:0", 512 * size)
    trace = open_trace(builder.write(rows_per_group=100))
    parsed = exported(trace)
    counters = parsed.counters["cuda:0 allocated"]
    assert counters == changes(trace, "cuda:0", "allocated_bytes")
    assert len(counters) == len(parsed.instants["cuda:0 allocations"]) == 11
