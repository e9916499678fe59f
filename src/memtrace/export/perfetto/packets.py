"""A Perfetto file as it is written: tracks, and sequences of packets that are events on them.

A sequence has defaults (the track that its events are on) and interned words, which its packets
name by number. So a packet is little more than a time and a value, and whole row groups are encoded
as byte matrices.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from memtrace.dataset import RowGroup
from memtrace.export.perfetto import fields as f
from memtrace.export.wire import (
    Column,
    Flags,
    Int64s,
    constant_column,
    integer,
    integer_column,
    message,
    message_column,
    rows_of,
    text,
)
from memtrace.outputs import Selection
from memtrace.trace import Process, Trace

#: Rows that are encoded at once: each takes some hundred bytes meanwhile.
ROWS_AT_A_TIME = 1 << 15
#: Later than any recording lasts, and on a host's clock still an int64.
_LATEST_NS = 1 << 62


def track_uuid(*names: str) -> int:
    """A track's id: the same in every export of a trace, so that exports can be compared."""
    joined = "\0".join(names).encode("utf-8", "replace")
    return zlib.crc32(joined) << 32 | zlib.adler32(joined) | 1


class Words:
    """Interned words of one kind, numbered from 1 over all sequences. 0 is no word."""

    def __init__(self, field: int) -> None:
        self.field = field
        self.words: list[str] = []
        self._ids: dict[str, int] = {}

    def id_of(self, word: str) -> int:
        """The word's number, a new one if there is none yet."""
        found = self._ids.get(word)
        if found is None:
            self.words.append(word)
            found = self._ids[word] = len(self.words)
        return found

    def ids(self, column: pa.ChunkedArray, *, missing: str | None = None) -> Int64s:
        """Each row's number; where there is no word, that of `missing`, or 0."""
        none = 0 if missing is None else self.id_of(missing)
        parts = [np.empty(0, np.int64)]
        for chunk in column.chunks:
            array = chunk if pa.types.is_dictionary(chunk.type) else pc.dictionary_encode(chunk)
            words = array.dictionary.to_pylist()
            ids = [none if word is None else self.id_of(word) for word in words]
            places = pc.fill_null(array.indices.cast(pa.int64()), len(ids)).to_numpy()
            parts.append(np.array([*ids, none], np.int64)[places])
        return np.concatenate(parts)

    def entry(self, number: int) -> bytes:
        """A word as a field of interned_data."""
        return message(self.field, integer(1, number), text(2, self.words[number - 1]))


@dataclass(frozen=True)
class Recorded:
    """A process in the file: its track, and when its recording began on the file's clock."""

    process: Process
    uuid: int
    origin_ns: int

    @property
    def key(self) -> str:
        return self.process.key


class PacketFile:
    """The file being written, and what part of the trace goes into it."""

    def __init__(self, out: IO[bytes], selection: Selection) -> None:
        self._out = out
        self._sequences = 1
        self.written_bytes = 0
        self.device = selection.device
        self.starts_late = selection.window_ns is not None
        #: From and to, in ns since a recording began; nothing outside is written.
        start_ns, end_ns = selection.window_ns or (0, _LATEST_NS)
        self.window_ns = min(start_ns, _LATEST_NS), min(end_ns, _LATEST_NS)

    def write(self, data: bytes) -> None:
        """Packets as they are."""
        self.written_bytes += len(data)
        self._out.write(data)

    def packet(self, *fields: bytes) -> None:
        """A packet that is no event."""
        self.write(message(f.TRACE_PACKET, *fields, integer(f.PACKET_SEQUENCE_ID, 1)))

    def track(self, recorded: Recorded, name: str, *fields: bytes, parent: int = 0) -> int:
        """Describes a track of a process, and gives its id."""
        uuid = track_uuid(recorded.key, name)
        self.packet(
            message(
                f.PACKET_TRACK_DESCRIPTOR,
                integer(f.TRACK_UUID, uuid),
                text(f.TRACK_NAME, name),
                integer(f.TRACK_PARENT, parent or recorded.uuid),
                *fields,
            )
        )
        return uuid

    def sequence(self, recorded: Recorded, track: int) -> Sequence:
        """A new sequence, of events on this track unless they name another."""
        self._sequences += 1
        return Sequence(self, self._sequences, track, recorded.origin_ns)

    def inside(self, times_ns: Int64s) -> Flags:
        """Which instants are in the window."""
        flags: Flags = (times_ns >= self.window_ns[0]) & (times_ns <= self.window_ns[1])
        return flags


class Sequence:
    """Packets that share defaults and interned words."""

    def __init__(self, file: PacketFile, number: int, track: int, origin_ns: int) -> None:
        self._file = file
        self._origin_ns = origin_ns
        self._number = integer(f.PACKET_SEQUENCE_ID, number)
        self._taught: dict[Words, Flags] = {}
        event = message(f.DEFAULTS_TRACK_EVENT, integer(f.DEFAULTS_TRACK_UUID, track))
        self.packet(
            integer(f.PACKET_FIRST_ON_SEQUENCE, 1),
            message(f.PACKET_DEFAULTS, event),
            flags=f.INCREMENTAL_STATE_CLEARED,
        )

    def packet(
        self, *fields: bytes, time_ns: int | None = None, flags: int = f.NEEDS_INCREMENTAL_STATE
    ) -> None:
        """A packet of any kind."""
        head = [] if time_ns is None else [integer(f.PACKET_TIMESTAMP, self.clock_ns(time_ns))]
        flag = integer(f.PACKET_SEQUENCE_FLAGS, flags)
        self._file.write(message(f.TRACE_PACKET, *head, self._number, flag, *fields))

    def clock_ns(self, time_ns: int) -> int:
        """An instant of the recording on the clock of the file."""
        return self._origin_ns + time_ns

    def teach(self, words: Words, ids: Int64s) -> None:
        """Makes words known to the sequence, those that are not yet; before an event names them."""
        known = self._taught.get(words, np.ones(1, np.bool_))
        known = np.pad(known, (0, len(words.words) + 1 - len(known)))
        named = np.zeros(len(known), np.bool_)
        named[ids] = True
        self.intern(map(words.entry, np.flatnonzero(named & ~known).tolist()))
        self._taught[words] = known | named

    def teach_word(self, words: Words, number: int) -> None:
        """The same for one word."""
        self.teach(words, np.array([number], np.int64))

    def intern(self, entries: Iterator[bytes]) -> None:
        """Writes fields of interned_data."""
        held: list[bytes] = []
        for entry in entries:
            held.append(entry)
            if len(held) == 1024:  # a file is read packet by packet
                self.packet(message(f.PACKET_INTERNED_DATA, *held))
                held.clear()
        if held:
            self.packet(message(f.PACKET_INTERNED_DATA, *held))

    def event(self, time_ns: int, *fields: bytes) -> None:
        """An event of these fields."""
        self.packet(message(f.PACKET_TRACK_EVENT, *fields), time_ns=time_ns)

    def events(self, times_ns: Int64s, *columns: Column) -> None:
        """An event a row."""
        flag = integer(f.PACKET_SEQUENCE_FLAGS, f.NEEDS_INCREMENTAL_STATE)
        if not len(times_ns):
            return
        packets = message_column(
            f.TRACE_PACKET,
            integer_column(f.PACKET_TIMESTAMP, times_ns + self._origin_ns),
            constant_column(len(times_ns), self._number + flag),
            message_column(f.PACKET_TRACK_EVENT, *columns),
        )
        self._file.write(rows_of(packets))


def write_edges(sequence: Sequence, words: Words, times_ns: Int64s, names: Int64s) -> None:
    """Begins and ends of nested slices, in order: a begin is what has a name."""
    sequence.teach(words, names)
    for rows in slices_of_rows(len(times_ns)):
        named = names[rows] > 0
        sequence.events(
            times_ns[rows],
            integer_column(f.EVENT_TYPE, np.where(named, f.TYPE_SLICE_BEGIN, f.TYPE_SLICE_END)),
            integer_column(f.EVENT_NAME_IID, names[rows]).where(named),
        )


def slices_of_rows(rows: int) -> Iterator[slice]:
    """All rows, so many at a time as are encoded at once."""
    for start in range(0, rows, ROWS_AT_A_TIME):
        yield slice(start, start + ROWS_AT_A_TIME)


def groups_inside(
    trace: Trace, file: PacketFile, recorded: Recorded, dataset: str, start: str, end: str = ""
) -> Iterator[RowGroup]:
    """Row groups of which the footer does not prove that all rows lie outside the window.

    Args:
        start, end: the columns of when a row's span begins and ends; null is never.
    """
    for group in trace.datasets[dataset].row_groups(recorded.key):
        begins, ends = group.bounds(start), group.bounds(end or start)
        if begins is not None and (begins.low is None or begins.low > file.window_ns[1]):
            continue
        over = ends is not None and ends.nulls == 0 and ends.high is not None
        if over and ends.high < file.window_ns[0]:  # type: ignore[union-attr]
            continue
        yield group
