"""Requests as the native allocator takes them: one column per fact, in the order of their places.

Two streams can be made of the same requests: the recorded one, with the addresses and the segment
events that a replay under the same settings must reproduce; and the bare one, for everything else.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from memtrace import _core
from memtrace.analyse.counters import Flags, Int64s, equals, integers, may_hold
from memtrace.errors import MemtraceError
from memtrace.replay.requests import Mark, Places, Requests

_KIND = {name: number for number, name in enumerate(_core.REQUEST_KINDS)}
_ACTION = {name: number for number, name in enumerate(_core.SEGMENT_ACTIONS)}
# At one place, frees come first.
_FIRST = np.array(
    [name not in ("free_requested", "free_completed") for name in _core.REQUEST_KINDS]
)
DEFAULT_POOL = "default"
# More than any device has, and little enough that no sum of sizes overflows.
_MOST_BYTES = 1 << 50

Numbers = npt.NDArray[Any]


@dataclass(frozen=True)
class Stream:
    """What the native allocator is asked, and what it was asked as.

    Attributes:
        places: of each native request, ascending.
        rows: of each native request: the row of the requests, or -1 (a mark, a failure).
        failures: of each native request: the number of the recorded failure, or -1.
        first_settings: as the text of a `settings` mark: what held before the first request.
        first_fraction: likewise, of the device's memory; 1.0: all of it.
        settings_conf: of each recorded change of settings, the text that was given.
        seeded: whether memory from before the recording lies where it was recorded.
    """

    native: _core.ReplayRequests
    places: Places
    rows: Int64s
    failures: Int64s
    first_settings: str
    first_fraction: float
    settings_conf: tuple[str, ...]
    seeded: bool


def native_stream(requests: Requests, *, recorded: bool) -> Stream:
    """The requests for the native allocator; `recorded`: with what it exchanged with the driver.

    Raises:
        ValueError: `recorded`, but the requests are not those of the recording.
        MemtraceError: the recording was paused in their midst.
    """
    _check_pauses(requests)
    if recorded and requests.changed:
        raise ValueError("changed requests have no recorded addresses")
    rows = requests.rows
    held = _preexisting(requests)
    asked = ~held
    count = len(requests)
    numbers = np.arange(count, dtype=np.int64)
    marks = [mark for mark in _resolved(requests.marks) if mark.kind in _KIND]
    settings = [mark for mark in marks if mark.kind == "settings"]
    fractions = [mark for mark in marks if mark.kind == "memory_fraction"]
    detail_of = {id(mark): i for listed in (settings, fractions) for i, mark in enumerate(listed)}
    ended, released = np.isfinite(requests.free), np.isfinite(requests.release)
    failed = requests.failures
    stream = integers(rows, "stream", missing=0).astype(np.uint64)
    pools = _PoolNumbers()
    pool = pools.of_column(rows["pool"])
    size = np.clip(requests.size_bytes, 0, _MOST_BYTES).astype(np.uint64)
    address = integers(rows, "address", missing=0).astype(np.uint64)
    nothing = np.zeros(len(marks), np.uint64)
    parts = [
        # (places, kind, detail, size, stream, pool, address, row, failure)
        _part(requests.start, "malloc", numbers, size, stream, pool, address, asked),
        _part(requests.free, "free_requested", numbers, size, stream, pool, address, ended),
        _part(requests.release, "free_completed", numbers, size, stream, pool, address, released),
    ]
    places = np.concatenate(
        [*(part["place"] for part in parts), [f.place for f in failed], [m.place for m in marks]]
    ).astype(np.float64)
    kind = np.concatenate(
        [
            *(part["kind"] for part in parts),
            np.full(len(failed), _KIND["failed_malloc"]),
            np.array([_KIND[mark.kind] for mark in marks], np.int64),
        ]
    ).astype(np.uint8)
    order = np.lexsort((_FIRST[kind], places))

    def column(name: str, of_failures: Numbers, of_marks: Numbers, dtype: Any) -> Numbers:
        found = np.concatenate([*(part[name] for part in parts), of_failures, of_marks])
        return np.ascontiguousarray(found.astype(dtype)[order])

    handles = column("stream", np.array([f.stream for f in failed], np.uint64), nothing, np.uint64)
    exchanged = _segment_events(requests) if recorded else _NO_EVENTS
    ranges = _ranges(requests, held, pools) if held.any() else {}
    known = np.unique(
        np.concatenate([handles, exchanged["stream"], ranges.get("stream", _NO_EVENTS["stream"])])
    )
    if ranges:
        ranges["stream"] = np.searchsorted(known, ranges["stream"]).astype(np.uint16)
    events = {**exchanged, "stream": np.searchsorted(known, exchanged["stream"]).astype(np.uint16)}
    by_address = np.flatnonzero(held)[np.argsort(address[held])]
    first = next((mark.facts for mark in settings), {})
    return Stream(
        native=_core.ReplayRequests(
            kind=np.ascontiguousarray(kind[order]),
            detail=column(
                "row",
                count + np.arange(len(failed)),
                np.array([detail_of.get(id(mark), _pool_rules(mark)) for mark in marks], np.int64),
                np.uint32,
            ),
            size_bytes=column(
                "size",
                np.array([min(max(f.asked_bytes, 0), _MOST_BYTES) for f in failed], np.uint64),
                nothing,
                np.uint64,
            ),
            stream=np.searchsorted(known, handles).astype(np.uint16),
            pool=column(
                "pool",
                np.array([pools.of(f.pool) for f in failed], np.uint16),
                np.array([pools.of(mark.pool) for mark in marks], np.uint16),
                np.uint16,
            ),
            address=column("address", np.zeros(len(failed), np.uint64), nothing, np.uint64)
            if recorded
            else np.zeros(0, np.uint64),
            settings=[json.dumps(mark.facts) for mark in settings],
            fractions=[float(mark.facts.get("fraction", 1.0)) for mark in fractions],
            ranges=ranges,
            blocks={
                "address": address[by_address],
                "block_bytes": integers(rows, "block_bytes", missing=0)[by_address].astype(
                    np.uint64
                ),
                "size_bytes": size[by_address],
                "allocation": by_address.astype(np.uint32),
            },
            segment_events=events,
            allocations=count + len(failed),
            streams=max(len(known), 1),
            pools=len(pools),
        ),
        places=places[order],
        rows=column("row", np.full(len(failed), -1), np.full(len(marks), -1), np.int64),
        failures=np.concatenate(
            [
                np.full(sum(len(part["row"]) for part in parts), -1),
                np.arange(len(failed)),
                np.full(len(marks), -1),
            ]
        )[order],
        first_settings=json.dumps(first),
        first_fraction=fraction_of(str(first.get("conf") or "")),
        settings_conf=tuple(str(mark.facts.get("conf") or "") for mark in settings),
        seeded=bool(held.any()),
    )


def _check_pauses(requests: Requests) -> None:
    """One at the beginning is as a recording that begins in mid-run."""
    asked = requests.start[~equals(requests.rows, "origin", "preexisting")]
    for mark in requests.marks:
        if mark.kind == "resume" and asked.min(initial=np.inf) < mark.place < asked.max(initial=-1):
            raise MemtraceError(
                f"the recording was paused while the program used {requests.device}: what it "
                "asked for meanwhile is not known, and cannot be replayed"
            )


def fraction_of(conf: str) -> float:
    """The share of a device's memory that a PYTORCH_ALLOC_CONF allows from the beginning on."""
    for word in conf.replace(" ", "").split(","):
        key, _, value = word.partition(":")
        if key == "per_process_memory_fraction":
            try:
                return float(value)
            except ValueError:
                return 1.0
    return 1.0


def _pool_rules(mark: Mark) -> int:
    """Of a pool that begins, by which rules: bits of csrc/replay/requests.h."""
    rules = ("no_split", "own_allocator")
    return sum(bool(mark.facts.get(rule)) << bit for bit, rule in enumerate(rules))


class _PoolNumbers:
    """Names of memory pools as small numbers; 0 is the default one."""

    def __init__(self) -> None:
        self._numbers = {DEFAULT_POOL: 0}

    def __len__(self) -> int:
        return len(self._numbers)

    def of(self, name: str | None) -> int:
        return self._numbers.setdefault(name or DEFAULT_POOL, len(self._numbers))

    def of_column(self, column: pa.ChunkedArray) -> npt.NDArray[np.uint16]:
        found = column.combine_chunks()
        if not isinstance(found, pa.DictionaryArray):
            found = found.dictionary_encode()
        numbers = np.array([self.of(name) for name in found.dictionary.to_pylist()] or [0])
        codes = found.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        known: npt.NDArray[np.uint16] = np.where(codes < 0, 0, numbers[codes]).astype(np.uint16)
        return known


def _part(
    place: Places, kind: str, row: Int64s, size: Numbers, stream: Numbers, pool: Numbers,
    address: Numbers, chosen: Flags,
) -> dict[str, Numbers]:  # fmt: skip
    return {
        "place": place[chosen],
        "kind": np.full(int(chosen.sum()), _KIND[kind]),
        "row": row[chosen],
        "size": size[chosen],
        "stream": stream[chosen],
        "pool": pool[chosen],
        "address": address[chosen],
    }


def _preexisting(requests: Requests) -> Flags:
    """Rows from before the recording, where they lie as they were recorded."""
    rows = requests.rows
    if requests.changed or not len(rows):
        return np.zeros(len(requests), bool)
    return equals(rows, "origin", "preexisting") & (integers(rows, "address", missing=0) > 0)


def _resolved(marks: tuple[Mark, ...]) -> list[Mark]:
    """The marks that count, each with its pool.

    A graph's own pool is named only by the end of its capture. Settings of before CUDA was
    initialised say nothing but what they were given; the first mark after it has them.
    """
    found: list[Mark] = []
    pool: str | None = None
    for mark in reversed(marks):
        if mark.kind == "capture_end":
            pool = mark.pool
        elif mark.kind == "capture_begin" and mark.pool is None:
            mark = Mark(mark.place, mark.kind, pool, mark.facts)
        if mark.kind != "settings" or "expandable_segments" in mark.facts:
            found.append(mark)
    return found[::-1]


_NO_EVENTS: dict[str, Numbers] = {
    "action": np.zeros(0, np.uint8),
    "address": np.zeros(0, np.uint64),
    "size_bytes": np.zeros(0, np.uint64),
    "stream": np.zeros(0, np.uint64),
}


def _segment_events(requests: Requests) -> dict[str, Numbers]:
    """What the allocator exchanged with the driver, after what lay on the device was listed."""
    columns = ["seq", "device", "action", "address", "size_bytes", "stream"]
    listed = requests.start[_preexisting(requests)].max(initial=-1.0)
    parts: list[dict[str, Numbers]] = [_NO_EVENTS]
    for group in requests.trace.datasets["events"].row_groups(requests.process.key):
        if not may_hold(group, "device", requests.device):
            continue
        table = group.read(columns)
        chosen = equals(table, "device", requests.device) & (integers(table, "seq") > listed)
        action = np.full(len(table), -1)
        for name, number in _ACTION.items():
            action[equals(table, "action", name)] = number
        chosen &= action >= 0
        parts.append(
            {
                "action": action[chosen].astype(np.uint8),
                "address": integers(table, "address", missing=0)[chosen].astype(np.uint64),
                "size_bytes": integers(table, "size_bytes", missing=0)[chosen].astype(np.uint64),
                "stream": integers(table, "stream", missing=0)[chosen].astype(np.uint64),
            }
        )
    return {name: np.concatenate([part[name] for part in parts]) for name in _NO_EVENTS}


def _ranges(requests: Requests, held: Flags, pools: _PoolNumbers) -> dict[str, Numbers]:
    """What was held from the driver when the recording began, in order of address."""
    last = float(requests.start[held].max())
    found = []
    for group in requests.trace.datasets["segments"].row_groups(requests.process.key):
        found += [
            row
            for row in group.read(
                ["device", "address", "size_bytes", "alloc_seq", "free_seq", "stream", "pool",
                 "small", "expandable"]
            ).to_pylist()
            if row["device"] == requests.device and row["alloc_seq"] <= last
            and (row["free_seq"] is None or row["free_seq"] > last)
        ]  # fmt: skip
    found.sort(key=lambda row: row["address"])
    return {
        "address": np.array([row["address"] for row in found], np.uint64),
        "size_bytes": np.array([row["size_bytes"] for row in found], np.uint64),
        "stream": np.array([row["stream"] or 0 for row in found], np.uint64),
        "pool": np.array([pools.of(row["pool"]) for row in found], np.uint16),
        "small": np.array([bool(row["small"]) for row in found], bool),
        "expandable": np.array([bool(row["expandable"]) for row in found], bool),
    }
