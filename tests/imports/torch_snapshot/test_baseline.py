"""Rings that wrapped: what was live before the first event is worked out from the end."""

from __future__ import annotations

from typing import Any

import pytest

from imports.torch_snapshot import golden
from imports.torch_snapshot.conftest import Import
from memtrace.imports.torch_snapshot.rounding import Rounding

MIB = 1 << 20
BASE = 0x7F00_0000_0000


def segment(address: int, size: int, live: dict[int, int], **keys: Any) -> dict[str, Any]:
    """A segment whose live blocks are {offset: size}."""
    blocks, at = [], 0
    for offset, bytes_ in sorted(live.items()):
        if offset > at:
            blocks.append({"size": offset - at, "state": "inactive"})
        blocks.append({"size": bytes_, "requested_size": bytes_, "state": "active_allocated"})
        at = offset + bytes_
    if at < size:
        blocks.append({"size": size - at, "state": "inactive"})
    return {
        "device": 0, "address": address, "total_size": size, "stream": 0,
        "segment_type": "large", "blocks": blocks, **keys,
    }  # fmt: skip


def event(action: str, address: int, size: int) -> dict[str, Any]:
    return {"action": action, "addr": address, "size": size, "stream": 0}


@pytest.mark.parametrize("kept", range(7))
def test_totals_are_the_same_whatever_was_forgotten(imported: Import, kept: int) -> None:
    events = golden.trace(frames=golden.ACTIVATION_FRAMES)
    snapshot = {"segments": golden.segments("frames")}
    whole = imported({**snapshot, "device_traces": [events]}).events.to_pylist()
    cut = imported({**snapshot, "device_traces": [events[len(events) - kept :]]})
    rows = cut.events.to_pylist()
    columns = ("action", "address", "allocated_bytes", "active_bytes", "reserved_bytes")
    last = [[row[name] for name in columns] for row in rows[len(rows) - kept :]]
    assert last == [[row[name] for name in columns] for row in whole[len(whole) - kept :]]
    origins = {row["origin"] for row in cut.allocations.to_pylist()}
    assert ("preexisting" in origins) == (kept < 5)
    assert cut.processes.to_pylist()[0]["reconciled"] is True


def test_a_block_that_waits_for_a_stream_at_the_first_event(imported: Import) -> None:
    events = [event("free_completed", BASE, 2 * MIB)]
    trace = imported({"segments": [segment(BASE, 20 * MIB, {})], "device_traces": [events]})
    rows = trace.events.to_pylist()
    assert [row["action"] for row in rows] == [
        "segment_alloc", "preexisting", "free_requested", "free_completed",
    ]  # fmt: skip
    assert [row["active_bytes"] for row in rows] == [0, 2 * MIB, 2 * MIB, 0]
    assert [row["allocated_bytes"] for row in rows] == [0, 2 * MIB, 0, 0]


def freed(first: int, requested: int, *events: dict[str, Any], **live: Any) -> dict[str, Any]:
    """A block of before at `first` is freed after the events."""
    gone = [event("free_requested", first, requested), event("free_completed", first, requested)]
    return {
        "segments": [segment(BASE, 20 * MIB, live.get("live", {}))],
        "device_traces": [[*events, *gone]],
    }


def test_a_rest_too_small_to_split_off_belongs_to_the_block(imported: Import) -> None:
    # 5.5 MiB of the 6 before the next block: torch would not have split off 0.5.
    live = {6 * MIB: 14 * MIB}
    trace = imported(freed(BASE, 5 * MIB + MIB // 2, live=live))
    (block,) = [r for r in trace.allocations.to_pylist() if r["free_seq"] is not None]
    assert block["block_bytes"] == 6 * MIB
    assert "larger" not in trace.processes.to_pylist()[0]["hook_error"]


def test_the_next_allocation_shows_where_a_block_ended(imported: Import) -> None:
    end = 5 * MIB + 512 * 700
    neighbour = event("alloc", BASE + end, 4 * MIB)
    trace = imported(freed(BASE, 5 * MIB, neighbour, live={end: 4 * MIB}))
    (block,) = [r for r in trace.allocations.to_pylist() if r["free_seq"] is not None]
    assert block["block_bytes"] == end


def test_what_cannot_be_known_is_said(imported: Import) -> None:
    trace = imported(freed(BASE, 5 * MIB))
    (block,) = trace.allocations.to_pylist()
    assert block["block_bytes"] == 5 * MIB
    told = trace.processes.to_pylist()[0]["hook_error"]
    assert "1 blocks from before its first event may each be 1 MiB larger" in told


def test_mapped_ranges_are_cut_and_joined(imported: Import) -> None:
    # At the end [0, 60) is mapped; before, all of [0, 80) was, with a block over the first two.
    page = 20 * MIB
    events = [
        event("segment_unmap", BASE + 3 * page, page),
        event("segment_unmap", BASE + page, page),
        event("segment_map", BASE + page, page),
    ]
    end = segment(BASE, 3 * page, {2 * page: page}, is_expandable=True)
    trace = imported({"segments": [end], "device_traces": [events]})
    reserved = [row["reserved_bytes"] // MIB for row in trace.events.to_pylist()]
    assert reserved[-4:] == [80, 60, 40, 60]
    assert trace.processes.to_pylist()[0]["reconciled"] is True


def test_rounding_is_the_allocators() -> None:
    plain = Rounding()
    assert [plain.round(n) for n in (0, 1, 512, 513)] == [512, 512, 512, 1024]
    divided = Rounding(divisions=(4,) * 16)
    assert divided.round(1_500_000) == 1_572_864
    assert divided.round(1 << 21) == 1 << 21
    assert divided.round(1200) == 1536
    assert plain.splits(6 * MIB, 5 * MIB - 512)
    assert not plain.splits(6 * MIB, 5 * MIB)
    assert not Rounding(max_split_bytes=4 * MIB).splits(20 * MIB, 5 * MIB)
    assert Rounding(expandable=True).splits(6 * MIB, 6 * MIB - 512)
