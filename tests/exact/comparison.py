"""A trace held against torch's own account of the same run. Differences are failures.

Imports no pytest: tests/gpu compares on machines that have nothing but torch and memtrace.
"""

from __future__ import annotations

from typing import Any

from exact.recording import Recording
from memtrace.replay.device import recorded_device
from memtrace.replay.engine import verify
from memtrace.replay.requests import read_requests


def recorded_by_torch(run: Recording, device: int) -> list[tuple[str, int, int, int]]:
    entries = run.torch["traces"][device]
    return [
        (
            entry["action"],
            entry["device_free"] if entry["action"] == "oom" else entry["addr"],
            entry["size"],
            entry["stream"],
        )
        for entry in entries
        if entry["action"] != "snapshot"
    ]


def recorded_by_memtrace(events: list[dict[str, Any]]) -> list[tuple[str, int, int, int]]:
    return [
        (
            event["action"],
            event["device_free_bytes"] if event["action"] == "oom" else event["address"],
            event["size_bytes"],
            event["stream"],
        )
        for event in events
        if event["action"] != "snapshot"
    ]


def events_of(run: Recording, device: int) -> list[dict[str, Any]]:
    """Our events up to the moment at which torch's snapshot was taken."""
    return run.events(f"cuda:{device}")[: _events_before_snapshot(run, device)]


def _events_before_snapshot(run: Recording, device: int) -> int:
    wanted = len(recorded_by_torch(run, device))
    seen = 0
    for index, event in enumerate(run.events(f"cuda:{device}")):
        if seen == wanted:
            return index
        seen += event["action"] != "snapshot"
    return len(run.events(f"cuda:{device}"))


def since_reset(run: Recording, device: int, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    resets = [
        mark["seq"]
        for mark in run.trace.marks.to_pylist()
        if mark["kind"] == "reset_peak" and mark["device"] in (f"cuda:{device}", None)
    ]
    start = max(resets, default=-1)
    before = [event for event in events if event["seq"] < start]
    return before[-1:] + [event for event in events if event["seq"] >= start]


def devices(run: Recording) -> range:
    return range(len(run.torch["traces"]))


def events_are_torchs_own_one_for_one(run: Recording) -> None:
    for device in devices(run):
        ours = recorded_by_memtrace(events_of(run, device))
        assert ours == recorded_by_torch(run, device)


def peaks_and_currents_equal_torchs_counters(run: Recording) -> None:
    for device in devices(run):
        events = events_of(run, device)
        stats = run.torch["stats"][device]
        if not events:
            assert stats.get("allocated_bytes.all.peak", 0) == 0
            continue
        window = since_reset(run, device, events)
        for name in ("allocated", "active", "reserved"):
            column = f"{name}_bytes"
            assert max(row[column] for row in window) == stats[f"{name}_bytes.all.peak"], name
            assert events[-1][column] == stats[f"{name}_bytes.all.current"], name
        assert max(row["allocated_bytes"] for row in window) == stats["allocated_bytes.all.peak"]
        allocs = sum(event["action"] == "alloc" for event in events)
        assert allocs == stats["allocation.all.allocated"]
        assert sum(event["action"] == "oom" for event in events) == stats["num_ooms"]


def final_layout_equals_torchs_snapshot_block_for_block(run: Recording) -> None:
    last = {device: events_of(run, device)[-1:] for device in devices(run)}
    limits = {f"cuda:{d}": events[0]["seq"] for d, events in last.items() if events}
    theirs, ours = set(), set()
    for segment in run.torch["segments"]:
        address = segment["address"]
        for block in segment["blocks"]:
            if block["state"] != "inactive":
                theirs.add((segment["device"], address, block["size"], block["requested_size"]))
            address += block["size"]
    for row in run.trace.allocations.to_pylist():
        limit = limits.get(row["device"])
        if limit is None or row["alloc_seq"] > limit:
            continue
        if row["release_seq"] is None or row["release_seq"] > limit:
            device = int(row["device"].split(":")[1])
            ours.add((device, row["address"], row["block_bytes"], row["size_bytes"]))
    assert ours == theirs


def segments_sum_to_torchs_reserved(run: Recording) -> None:
    for device in devices(run):
        events = events_of(run, device)
        if not events:
            continue
        limit = events[-1]["seq"]
        live = sum(
            row["size_bytes"]
            for row in run.trace.segments.to_pylist()
            if row["device"] == f"cuda:{device}"
            and row["alloc_seq"] <= limit
            and (row["free_seq"] is None or row["free_seq"] > limit)
        )
        assert live == run.torch["stats"][device]["reserved_bytes.all.current"]


def totals_reconcile_and_nothing_is_lost(run: Recording) -> None:
    processes = run.trace.processes.to_pylist()
    assert [process["lost_total"] for process in processes] == [0] * len(processes)
    (main,) = [process for process in processes if process["start_method"] == "main"]
    assert main["reconciled"] is True, main["reconcile_note"]
    assert main["mismatch_bytes"] == 0


def a_replay_reproduces_every_segment_event_one_for_one(run: Recording) -> None:
    for device in devices(run):
        events = run.events(f"cuda:{device}")
        if not events:
            continue
        found = verify(read_requests(run.trace, device=f"cuda:{device}"))
        assert found.divergence is None
        exchanged = [e for e in events if e["action"] == "oom" or "segment_" in e["action"]]
        assert found.compared == len(exchanged)
        for of in ("allocated", "active", "reserved"):
            assert found.run.peaks[of].total_bytes == max(e[f"{of}_bytes"] for e in events)
            assert found.run.last_bytes[of] == events[-1][f"{of}_bytes"]


def a_replay_knows_when_the_device_is_full(run: Recording) -> None:
    for name in run.trace.devices:
        if name == "cpu":
            continue
        requests = read_requests(run.trace, device=name)
        found = verify(requests, device=recorded_device(requests))
        assert found.divergence is None
        assert not found.run.failed
        assert not found.run.passed


def block_bytes_equal_what_the_profiler_reports(run: Recording) -> None:
    theirs = run.torch["allocations"]
    assert theirs
    by_device: dict[str, list[tuple[int, int]]] = {}
    for device, address, size in theirs:
        by_device.setdefault(device, []).append((address, size))
    for device, reported in by_device.items():
        # Each event that it reports must be there, in order, with its bytes. Its tree of events
        # leaves some out: frees, and what storages get outside any operator (storage.resize_()).
        allocs = [(address, size) for address, size in reported if size > 0]
        assert allocs
        ours = [
            (row["address"], row["block_bytes"])
            for row in run.events(device)
            if row["action"] == "alloc"
        ]
        rest = iter(ours)
        assert [block for block in allocs if block not in rest] == []


COMPARISONS = (
    events_are_torchs_own_one_for_one,
    peaks_and_currents_equal_torchs_counters,
    final_layout_equals_torchs_snapshot_block_for_block,
    segments_sum_to_torchs_reserved,
    totals_reconcile_and_nothing_is_lost,
    a_replay_reproduces_every_segment_event_one_for_one,
)
