"""Random event streams through spool and finaliser, against plain models of what they mean."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finalise.mirror_oracle import FREE, Device
from memtrace import _core
from memtrace.finalise import finalise
from spool_writer import SpoolWriter, rows

_SETTINGS = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def fresh(tmp_path: Path) -> Path:
    number = len(list(tmp_path.iterdir()))
    return tmp_path / f"{number}.memtrace"


@_SETTINGS
@given(
    seed=st.integers(0, 1 << 32),
    steps=st.integers(1, 300),
    threads=st.integers(1, 4),
    expandable=st.booleans(),
    divisions=st.sampled_from([0, 4, 8]),
    max_split=st.sampled_from([-1, 24 << 20]),
)
def test_cuda_rows_are_what_the_allocator_did(
    tmp_path: Path,
    seed: int,
    steps: int,
    threads: int,
    expandable: bool,
    divisions: int,
    max_split: int,
) -> None:
    random = Random(seed)
    device = Device(random, expandable=expandable, divisions=divisions, max_split=max_split)
    for _ in range(steps):
        device.step()
    trace_dir = fresh(tmp_path)
    spool = SpoolWriter(trace_dir, chunk_bytes=64 * random.choice([3, 17, 1024]))
    spool.process(devices=[{"device": "cuda:0", "total_bytes": 1 << 34}])
    logs = [spool.log() for _ in range(threads)]
    logs[0].mark(1, "settings", text=json.dumps(device.settings()))
    clocks = [1000] * threads
    for order, made in enumerate(device.made, 1):
        thread = random.randrange(threads)
        # Clocks of threads disagree by less than the merge waits; `order` is the truth.
        ticks = clocks[thread] = max(clocks[thread], 1000 * order + random.randint(-3000, 3000))
        logs[thread].event(
            made.action, ticks, made.address, made.size, device=0, stream=made.stream, order=order
        )
    path = spool.finish(last_chunks_in_windows=random.random() < 0.5)
    layout = _layout(path)
    finalise(trace_dir)

    events = rows(trace_dir, "events")
    assert [event["seq"] for event in events] == list(range(len(device.made)))
    for event, made in zip(events, device.made, strict=True):
        assert event["action"] == made.action
        assert event["address"] == made.address
        assert event["block_bytes"] == made.block_bytes
        assert event["allocated_bytes"] == made.allocated
        assert event["active_bytes"] == made.active
        assert event["reserved_bytes"] == made.reserved
    assert layout == {
        address: (block.size, block.state != FREE) for address, block in device.blocks.items()
    }
    _check_lifetimes(trace_dir, events)
    _check_segments(trace_dir, events)
    (process,) = rows(trace_dir, "processes")
    assert process["lost_total"] == 0
    assert json.loads(process["lost_events"])["mirror_inconsistencies"] == 0


def _layout(path: Path) -> dict[int, tuple[int, bool]]:
    conversion = _core.Conversion(_core.SpoolReader(str(path)))
    while not conversion.finished:
        conversion.advance()
    blocks = conversion.layout().get("cuda:0", [])
    return {address: (size, state != 0) for _, address, size, state, _ in blocks}


def _check_lifetimes(trace_dir: Path, events: list[dict[str, Any]]) -> None:
    """Rows of `allocations` sum to the running totals at every event."""
    allocations = rows(trace_dir, "allocations")
    assert [row["alloc_seq"] for row in allocations] == sorted(
        row["alloc_seq"] for row in allocations
    )
    changes = [[0, 0] for _ in range(len(events) + 1)]
    for row in allocations:
        changes[row["alloc_seq"]][0] += row["block_bytes"]
        changes[row["alloc_seq"]][1] += row["block_bytes"]
        if row["free_seq"] is not None:
            changes[row["free_seq"]][0] -= row["block_bytes"]
        if row["release_seq"] is not None:
            assert row["free_seq"] <= row["release_seq"]
            changes[row["release_seq"]][1] -= row["block_bytes"]
    allocated = active = 0
    for event, (allocated_change, active_change) in zip(events, changes, strict=False):
        allocated += allocated_change
        active += active_change
        assert (allocated, active) == (event["allocated_bytes"], event["active_bytes"])


def _check_segments(trace_dir: Path, events: list[dict[str, Any]]) -> None:
    """Live rows of `segments` sum to `reserved` at every event."""
    changes = [0] * (len(events) + 1)
    seen = set()
    for row in rows(trace_dir, "segments"):
        seen.add(row["segment_id"])
        changes[row["alloc_seq"]] += row["size_bytes"]
        if row["free_seq"] is not None:
            changes[row["free_seq"]] -= row["size_bytes"]
    assert len(seen) == len(rows(trace_dir, "segments"))
    reserved = 0
    for event, change in zip(events, changes, strict=False):
        reserved += change
        assert reserved == event["reserved_bytes"]


_CPU_EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["alloc", "free", "external"]),
        st.integers(1, 8),  # which address
        st.integers(0, 1 << 20),  # size
        st.integers(0, 2),  # thread
    ),
    max_size=120,
)


@_SETTINGS
@given(stream=_CPU_EVENTS)
def test_cpu_rows_against_a_dict(tmp_path: Path, stream: list[tuple[str, int, int, int]]) -> None:
    trace_dir = fresh(tmp_path)
    spool = SpoolWriter(trace_dir)
    logs = [spool.log() for _ in range(3)]
    live: dict[int, int] = {}
    external: dict[int, int] = {}
    expected: list[int] = []
    unmatched = missed = 0
    for ticks, (action, place, size, thread) in enumerate(stream, 1):
        address = 4096 * place
        if action == "alloc":
            missed += address in live
            live[address] = size
            for place in sorted(external, reverse=True):  # torch's now: those that reach into it
                if place < address + max(size, 1):
                    if place + external[place] <= address:
                        break
                    del external[place]
            logs[thread].alloc(ticks, address, size)
        elif action == "external":
            if address not in live:  # else it is torch's own memory that came back to it
                missed += address in external
                external[address] = size
            logs[thread].event("external", ticks, address, size, pool=3)
        else:
            if address in live:
                del live[address]
            elif address in external:
                del external[address]
            else:
                unmatched += 1
            logs[thread].free(ticks, address)
        expected.append(sum(live.values()))
    spool.finish()
    finalise(trace_dir)

    events = rows(trace_dir, "events")
    assert [event["allocated_bytes"] for event in events] == expected
    allocations = rows(trace_dir, "allocations")
    still_live = {
        row["address"]: row["size_bytes"]
        for row in allocations
        if row["free_seq"] is None and row["origin"] == "recorded"
    }
    assert still_live == live
    (process,) = rows(trace_dir, "processes")
    assert process["unmatched_frees"] == unmatched
    assert json.loads(process["lost_events"])["missed_frees"] == missed
    ids = {row["allocation_id"] for row in allocations}
    assert {e["allocation_id"] for e in events if e["allocation_id"] is not None} == ids
