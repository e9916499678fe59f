"""Host memory that scans tell of: what was there before the recording, what torch was handed."""

from __future__ import annotations

import json
from pathlib import Path

from memtrace.finalise import finalise
from spool_writer import SpoolWriter, rows


def test_host_memory_from_before_the_recording_is_told_by_scans(trace_dir: Path) -> None:
    spool = SpoolWriter(trace_dir)
    log = spool.log()
    log.alloc(10, 0x1000, 64)  # recorded: a note of it adds nothing
    log.free(11, 0x2000)  # a life before the one that is noted: it began in the recording
    log.alloc(12, 0x5040, 64)  # likewise: this is within the place that is noted later
    log.free(13, 0x5040)
    log.alloc(30, 0x3010, 8)  # torch has the memory of 0x3000 by now
    log.free(40, 0x4000, 512)  # a scan's word: it is gone
    log.free(41, 0x4000, 512)  # once is enough
    log.free(42, 0x1000, 64)  # the allocator's word counts for what was recorded
    log.free(43, 0x2000)  # torch's own
    note = {"device": "cpu", "kind": "weight", "memory": None}
    for address, size in ((0x1000, 64), (0x2000, 128), (0x3000, 256), (0x4000, 512), (0x5000, 99)):
        spool.tensor(**note, address=address, bytes=size, name=hex(address), ticks=20)
    spool.finish()
    finalise(trace_dir)
    found = {row["label"]: row for row in rows(trace_dir, "allocations")}
    events = rows(trace_dir, "events")
    assert [(row["action"], row["allocated_bytes"]) for row in events] == [
        ("preexisting", 256), ("preexisting", 768), ("alloc", 832), ("free_requested", 832),
        ("alloc", 896), ("free_requested", 832), ("preexisting", 960), ("preexisting", 1059),
        ("alloc", 811), ("free_requested", 299), ("free_requested", 171),
    ]  # fmt: skip
    assert {name: row["origin"] for name, row in found.items() if name} == {
        "0x1000": "recorded", "0x2000": "preexisting", "0x3000": "preexisting",
        "0x4000": "preexisting", "0x5000": "preexisting",
    }  # fmt: skip
    assert (found["0x3000"]["alloc_seq"], found["0x3000"]["free_seq"]) == (0, 8)
    assert (found["0x4000"]["alloc_seq"], found["0x4000"]["free_seq"]) == (1, 9)
    assert (found["0x2000"]["alloc_seq"], found["0x2000"]["free_seq"]) == (6, 10)
    assert found["0x1000"]["free_seq"] is None
    (process,) = rows(trace_dir, "processes")
    lost = json.loads(process["lost_events"])
    assert (lost["unmatched_names"], lost["missed_frees"], process["lost_total"]) == (0, 0, 0)
    assert process["unmatched_frees"] == 1


def test_memory_that_torch_was_handed_ends(trace_dir: Path) -> None:
    spool = SpoolWriter(trace_dir)
    log = spool.log()
    log.event("external", 10, 0x1000, 512, pool=1)
    log.event("external", 11, 0x2000, 512, pool=3)
    log.free(20, 0x2000, 512)
    log.event("external", 21, 0x2000, 512, pool=3)
    log.alloc(30, 0x1040, 64)  # torch's now: numpy gave it back
    log.free(31, 0x1000, 512)  # what the scan finds later says nothing new
    spool.finish()
    finalise(trace_dir)
    found = [(row["origin"], row["alloc_seq"], row["free_seq"])
             for row in rows(trace_dir, "allocations")]  # fmt: skip
    assert found == [
        ("external", 0, 4), ("external", 1, 2), ("external", 3, None), ("recorded", 4, None),
    ]  # fmt: skip
    assert [row["allocated_bytes"] for row in rows(trace_dir, "events")] == [0, 0, 0, 0, 64]
    (process,) = rows(trace_dir, "processes")
    assert process["lost_total"] == process["unmatched_frees"] == 0
