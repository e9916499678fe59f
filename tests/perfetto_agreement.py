"""What a Perfetto file of a whole trace of one process must agree with: the trace itself."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from memtrace.analyse.counters import highest
from memtrace.trace import Trace
from perfetto_reader import Parsed, Slice

MEASURES = ("allocated", "active", "reserved")


def check_agreement(trace: Trace, parsed: Parsed) -> None:
    """Every track of the file against the trace."""
    (process,) = trace.process_list
    origin_ns = process.row["clock_origin_ns"]
    assert parsed.clocks == {
        1: process.row["clock_origin_unix_ns"], 3: origin_ns, 4: origin_ns, 6: origin_ns,
    }  # fmt: skip
    allocations, events = trace.allocations.to_pylist(), trace.events.to_pylist()
    for device in trace.devices:
        _check_counters(parsed, device, [row for row in events if row["device"] == device])
        rows = [row for row in allocations if row["device"] == device]
        _check_allocations(parsed, device, rows, origin_ns)
        _check_categories(parsed, device, rows)
        _check_peak(trace, parsed, device, origin_ns)
    _check_flows(parsed, allocations)
    _check_calls(trace, parsed, origin_ns)
    for track, slices in parsed.slices.items():
        check_nesting(track, slices)


def _check_counters(parsed: Parsed, device: str, events: list[dict[str, Any]]) -> None:
    for of in MEASURES if device != "cpu" else MEASURES[:1]:
        totals = [row[f"{of}_bytes"] for row in events if row[f"{of}_bytes"] is not None]
        values = [value for _, value in parsed.counters[f"{device} {of}"]]
        changes = [b for a, b in zip([None, *totals], totals, strict=False) if a != b]
        assert values == changes, (device, of)


def _check_allocations(
    parsed: Parsed, device: str, rows: list[dict[str, Any]], origin_ns: int
) -> None:
    counted = [row for row in rows if row["origin"] != "external"]
    expected = Counter(_event(row, "alloc_time_ns", origin_ns) for row in counted)
    instants = parsed.instants[f"{device} allocations"]
    assert expected == Counter((i.time_ns, i.weight, i.name, i.category) for i in instants)
    assert sum(i.weight for i in instants) == sum(row["block_bytes"] for row in counted)
    assert all(i.told["bytes"] == i.weight for i in instants)
    freed = [row for row in counted if row["free_time_ns"] is not None]
    frees = parsed.instants[f"{device} frees"]
    expected = Counter(_event(row, "free_time_ns", origin_ns) for row in freed)
    assert expected == Counter((i.time_ns, i.weight, i.name, i.category) for i in frees)
    for of in ("allocations", "frees"):
        assert all(i.stack for i in parsed.instants[f"{device} {of}"])


def _event(row: dict[str, Any], time: str, origin_ns: int) -> tuple[Any, ...]:
    name, category = row["operator"] or "(no operator)", row["category"] or "other"
    return (origin_ns + row[time], row["block_bytes"], name, category)


def _check_categories(parsed: Parsed, device: str, rows: list[dict[str, Any]]) -> None:
    live: dict[str, int] = defaultdict(int)
    for row in rows:
        if row["free_seq"] is None and row["origin"] != "external":
            live[row["category"] or "other"] += row["block_bytes"]
    group = [t.uuid for t in parsed.tracks.values() if t.name == f"{device} by category"]
    tracks = [t.name for t in parsed.tracks.values() if t.parent_uuid in group]
    at_end = {
        name.removeprefix(f"{device} "): parsed.counters[name][-1][1]
        for name in tracks
    }  # fmt: skip
    assert {name: value for name, value in at_end.items() if value} == {
        name: value for name, value in live.items() if value
    }
    # At every instant the categories add up to what is allocated.
    changes = sorted(
        (time_ns, name, value) for name in tracks for time_ns, value in parsed.counters[name]
    )
    held: dict[str, int] = {}
    sums: dict[int, int] = {}
    for time_ns, name, value in changes:
        held[name] = value
        sums[time_ns] = sum(held.values())
    allocated = dict(parsed.counters[f"{device} allocated"])  # the last value of each instant
    allocated = {time_ns: value for time_ns, value in allocated.items() if time_ns in sums}
    assert allocated == sums


def _check_peak(trace: Trace, parsed: Parsed, device: str, origin_ns: int) -> None:
    process = trace.process_list[0]
    peak = highest(trace, process=process.key, device=device, of="allocated")
    assert peak is not None
    (instant,) = (
        i for i in parsed.instants[f"{device} peaks and failures"] if i.name == "peak allocated"
    )
    assert instant.told == {"bytes": peak.total_bytes, "seq": peak.seq}
    values = [value for _, value in parsed.counters[f"{device} allocated"]]
    assert max(values) == peak.total_bytes
    if not peak.total_bytes:
        return
    heap = parsed.heaps[f"{device.replace(':', ' ')}, live at the peak"]
    assert heap.pid == process.pid
    assert heap.time_ns == instant.time_ns
    assert sum(size_bytes for size_bytes, _ in heap.samples.values()) == peak.total_bytes
    live = [
        row
        for row in trace.allocations.to_pylist()
        if row["device"] == device and row["origin"] != "external"
        and row["alloc_seq"] <= peak.seq
        and (row["free_seq"] is None or row["free_seq"] > peak.seq)
    ]  # fmt: skip
    assert sum(blocks for _, blocks in heap.samples.values()) == len(live)


def _check_flows(parsed: Parsed, allocations: list[dict[str, Any]]) -> None:
    flows = parsed.flows
    freed = [row for row in allocations if row["free_time_ns"] is not None]
    assert len(flows) == len(freed)
    for begins, ends in flows.values():
        assert len(begins) == len(ends) == 1, "a flow that is not closed shows no arrow"
        assert begins[0].time_ns <= ends[0].time_ns
        assert (begins[0].weight, begins[0].stack) == (ends[0].weight, ends[0].stack)


def _check_calls(trace: Trace, parsed: Parsed, origin_ns: int) -> None:
    expected: dict[str, Counter[tuple[str, int, int]]] = defaultdict(Counter)
    for row in trace.operators.to_pylist():
        if row["end_time_ns"] is not None:
            start_ns, end_ns = origin_ns + row["start_time_ns"], origin_ns + row["end_time_ns"]
            call = (row["name"] or "?", start_ns, max(end_ns, start_ns + 1))
            expected[f"operators of thread {row['thread_id']}"][call] += 1
    found = {
        track: Counter((item.name, item.start_ns, item.end_ns) for item in slices)
        for track, slices in parsed.slices.items()
        if track.startswith("operators")
    }
    assert found == dict(expected)


def check_nesting(track: str, slices: list[Slice]) -> None:
    """Slices of a track, in the order in which they begin: each is in the one around it."""
    around: list[Slice] = []
    for item in slices:
        del around[item.depth :]
        assert len(around) == item.depth
        if around and around[-1].end_ns is not None:
            assert item.end_ns is not None, (track, item)
            assert item.end_ns <= around[-1].end_ns
        assert item.end_ns is None or item.start_ns <= item.end_ns
        if track.startswith(("operators", "modules")):
            assert item.end_ns is not None, (track, item)
        around.append(item)
