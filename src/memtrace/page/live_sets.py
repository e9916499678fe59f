"""What was live when, as data of a page: sums at the cuts, the instants, allocations one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from memtrace.analyse.counters import Int64s, integers
from memtrace.analyse.history import SITE, DeviceHistory
from memtrace.analyse.instants import Instants
from memtrace.analyse.lifespans import Lifespans
from memtrace.analyse.live_set import BYTES
from memtrace.analyse.owners import encode
from memtrace.analyse.stack import stacks_by_id
from memtrace.page.columns import MOST, ColumnPacker, Words
from memtrace.trace import Trace

#: Stacks are told of allocations that are listed: those that held most.
MOST_STACKS = 4_000
_NEVER = np.iinfo(np.int64).max
_TEXT = ("label", "phase", "memory", "pool")


def pack_sums(device: DeviceHistory, columns: ColumnPacker) -> dict[str, Any]:
    """The cuts, with the device's totals, and what lived between them."""
    spans: Lifespans = device.lifespans
    return {
        "cuts": {
            "seq": columns.add(spans.cuts.seq, delta=True),
            "ns": columns.add(spans.cuts.time_ns, delta=True),
            "allocated": columns.add(device.allocated_bytes, delta=True),
            "reserved": columns.add(device.reserved_bytes, delta=True),
            "unmatched": columns.add(device.unmatched_bytes, delta=True),
        },
        "spans": {
            "site": columns.add(spans.site),
            "born": columns.add(spans.born, delta=True),
            "lived": columns.add(spans.died - spans.born),
            "bytes": columns.add(spans.block_bytes),
            "blocks": columns.add(spans.blocks),
        },
    }


def listed_instants(instants: Instants) -> dict[str, Any]:
    """The instants by name, and how many of their kinds there are in the recording."""
    return {
        "totals": instants.totals,
        "chosen": [
            {
                "kind": instant.kind,
                "seq": instant.seq,
                "ns": instant.time_ns,
                "name": instant.name,
                "number": instant.number,
            }
            for instant in instants.chosen
        ],
    }


def pack_rows(
    trace: Trace, key: str, device: DeviceHistory, words: Words, columns: ColumnPacker
) -> dict[str, Any]:
    """Allocations one by one. Ends are told as how long after the beginning, 0: never."""
    rows = device.rows
    born, born_ns = integers(rows, "alloc_seq"), integers(rows, "alloc_time_ns")
    free = integers(rows, "free_seq", missing=_NEVER)
    freed = free != _NEVER
    waits = np.maximum(integers(rows, "release_seq", missing=0) - np.where(freed, free, 0), 0)
    freed_ns = np.where(freed, integers(rows, "free_time_ns"), born_ns)
    stack, frames = _stacks(trace, key, rows)
    packed = {
        "id": columns.add(integers(rows, "allocation_id"), delta=True),
        "site": columns.add(integers(rows, SITE)),
        "bytes": columns.add(integers(rows, BYTES)),
        "asked": columns.add(integers(rows, "size_bytes")),
        "born": columns.add(born, delta=True),
        "lived": columns.add(np.where(freed, free - born, 0)),
        "waits": columns.add(np.where(freed, waits, 0)),
        "born_ns": columns.add(born_ns, delta=True),
        "lived_ns": columns.add(np.maximum(freed_ns - born_ns, 0)),
        "address": columns.add(_addresses(rows)),
        "thread": columns.add(integers(rows, "thread_id") & 0x7FFF_FFFF),
        "stream": columns.add(integers(rows, "stream") & (MOST - 1)),
        "step": columns.add(np.maximum(integers(rows, "step", missing=-1) + 1, 0)),
        "stack": columns.add(stack),
        **{name: columns.add(_words(rows, name, words)) for name in _TEXT},
    }
    listing = device.listing
    return {
        "columns": packed,
        "stacks": columns.add_json(frames),
        "total": device.allocations,
        "large_bytes": listing.large_bytes,
        "floor_bytes": listing.floor_bytes,
    }


def site_words(sites: Sequence[tuple[str | None, ...]], words: Words) -> list[list[int]]:
    """Each site as the numbers of its category, module, operator and source."""
    return [[words.number(word) for word in site] for site in sites]


def _addresses(rows: pa.Table) -> Int64s:
    # Of user space, so that they are exact in JavaScript; others are told as none.
    address = rows.column("address").to_numpy().astype(np.float64)
    known = np.isfinite(address) & (address < MOST)
    found: Int64s = np.where(known, address, 0).astype(np.int64)
    return found


def _words(rows: pa.Table, column: str, words: Words) -> Int64s:
    codes, names = encode(rows, column)
    numbers = np.array([words.number(name) for name in names], np.int64)
    return numbers[codes] if len(codes) else codes


def _stacks(trace: Trace, key: str, rows: pa.Table) -> tuple[Int64s, dict[str, Any]]:
    """The number of each row's stack, from 1, and their frames; 0: it is not in the page."""
    ids = integers(rows, "stack_id", missing=-1)
    distinct, place = np.unique(ids, return_inverse=True)
    held = np.zeros(len(distinct), np.int64)
    np.add.at(held, place, integers(rows, BYTES))
    largest = distinct[np.argsort(-held, kind="stable")]
    told = largest[largest >= 0][:MOST_STACKS]
    frames: dict[tuple[str, str, int], int] = {}
    number_of: dict[int, int] = {}
    stacks: list[list[int]] = []
    for stack_id, found in stacks_by_id(trace, key, told.tolist()).items():
        number_of[stack_id] = len(stacks) + 1
        stacks.append([frames.setdefault((f.function, f.file, f.line), len(frames)) for f in found])
    numbers = np.array([number_of.get(stack_id, 0) for stack_id in distinct.tolist()], np.int64)
    found_numbers = numbers[place] if len(ids) else ids
    return found_numbers, {"frames": [list(frame) for frame in frames], "stacks": stacks}
