"""Stages and steps as nested slices on tracks of their own."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from memtrace.export import perfetto_fields as f
from memtrace.export.wire import integer, message, text
from memtrace.trace import Process, Trace

_STAGES, _STEPS = "stages", "steps"


@dataclass(frozen=True)
class Slice:
    """A span; `end_ns` is None when the process was killed in it. `thread_id` None: all of it."""

    lane: str
    name: str
    thread_id: int | None
    start_ns: int
    end_ns: int | None


def slices_of(trace: Trace, process: Process) -> Iterator[Slice]:
    """All of a process's stages and steps."""
    for group in trace.datasets["stages"].row_groups(process.key):
        columns = ["name", "thread_id", "start_time_ns", "end_time_ns"]
        for row in group.read(columns).to_pylist():
            yield Slice(
                _STAGES,
                row["name"] or "?",
                row["thread_id"],
                row["start_time_ns"] or 0,
                row["end_time_ns"],
            )
    for group in trace.datasets["steps"].row_groups(process.key):
        columns = ["step", "kind", "root_module", "thread_id", "start_time_ns", "end_time_ns"]
        for row in group.read(columns).to_pylist():
            what = " ".join(word for word in (row["kind"], row["root_module"]) if word)
            yield Slice(
                _STEPS,
                f"{what or 'step'} {row['step']}",
                row["thread_id"],
                row["start_time_ns"] or 0,
                row["end_time_ns"],
            )


def slice_packets(
    slices: Iterable[Slice], process: Process, sequence: int, parent: int
) -> Iterator[bytes]:
    """Track descriptors, then begins and ends in the order of time; names are interned."""
    origin = process.row["clock_origin_ns"] or 0
    names: dict[str, int] = {}
    first = True
    for (lane, thread_id, number), nested in _lanes(slices).items():
        uuid = zlib.crc32(f"{process.key}\0{lane}\0{thread_id}\0{number}".encode()) << 16 | 2
        yield f.packet(
            message(f.PACKET_TRACK_DESCRIPTOR, *_track(uuid, lane, thread_id, parent)),
            integer(f.PACKET_SEQUENCE_ID, sequence),
        )
        for time_ns, starting in _edges(nested):
            fields = [
                integer(f.PACKET_TIMESTAMP, origin + time_ns),
                integer(f.PACKET_SEQUENCE_ID, sequence),
            ]
            flags = f.NEEDS_INCREMENTAL_STATE
            if first:
                flags |= f.INCREMENTAL_STATE_CLEARED
                fields.append(integer(f.PACKET_FIRST_ON_SEQUENCE, 1))
                first = False
            fields.append(integer(f.PACKET_SEQUENCE_FLAGS, flags))
            if starting is None:
                event = [integer(f.EVENT_TYPE, f.TYPE_SLICE_END)]
            else:
                if starting.name not in names:
                    names[starting.name] = len(names) + 1
                    interned = message(2, integer(1, names[starting.name]), text(2, starting.name))
                    fields.append(message(f.PACKET_INTERNED_DATA, interned))
                event = [
                    integer(f.EVENT_TYPE, f.TYPE_SLICE_BEGIN),
                    integer(f.EVENT_NAME_IID, names[starting.name]),
                    text(f.EVENT_CATEGORY, lane),
                ]
            event.append(integer(f.EVENT_TRACK_UUID, uuid))
            yield f.packet(*fields, message(f.PACKET_TRACK_EVENT, *event))


def _track(uuid: int, lane: str, thread_id: int | None, parent: int) -> list[bytes]:
    # Not perfetto's thread descriptor: a trace numbers its threads itself, and a made-up tid would
    # be taken for that of another thread of the host.
    name = lane if thread_id is None else f"{lane} of thread {thread_id}"
    return [integer(1, uuid), text(2, name), integer(5, parent)]


def _lanes(slices: Iterable[Slice]) -> dict[tuple[str, int | None, int], list[Slice]]:
    """Slices by track; where two overlap without nesting, the later gets a track further down."""
    lanes: dict[tuple[str, int | None, int], list[Slice]] = {}
    open_ends: dict[tuple[str, int | None, int], list[float]] = {}
    ordered = sorted(slices, key=lambda s: (s.start_ns, -_end(s)))
    for item in ordered:
        number = 0
        while True:
            key = (item.lane, item.thread_id, number)
            ends = open_ends.setdefault(key, [])
            while ends and ends[-1] <= item.start_ns:
                ends.pop()
            if not ends or _end(item) <= ends[-1]:
                ends.append(_end(item))
                lanes.setdefault(key, []).append(item)
                break
            number += 1
    return lanes


def _edges(nested: list[Slice]) -> Iterator[tuple[int, Slice | None]]:
    """Begins (with the slice) and ends (None) of properly nested slices, in order of time."""
    stack: list[Slice] = []
    for item in nested:
        while stack and _end(stack[-1]) <= item.start_ns:
            yield int(_end(stack.pop())), None
        yield item.start_ns, item
        stack.append(item)
    while stack:
        end = stack.pop().end_ns
        if end is not None:
            yield end, None


def _end(item: Slice) -> float:
    return float("inf") if item.end_ns is None else item.end_ns
