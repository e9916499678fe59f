"""Perfetto's native format: a counter track per device and measure, stages and steps as slices.

Times are the host's monotonic clock, so traces of the processes of one host line up. Every counter
is a sequence of its own whose defaults name its track: a packet is then little more than a time
and a value, and whole row groups are encoded as byte matrices.
"""

from __future__ import annotations

import shlex
import zlib
from collections.abc import Iterator
from typing import IO

import numpy as np

from memtrace.analyse.counters import Int64s, equals, integers, last_moment
from memtrace.dataset import Bounds
from memtrace.export import perfetto_fields as f
from memtrace.export.perfetto_slices import Slice, slice_packets, slices_of
from memtrace.export.wire import (
    constant_column,
    integer,
    join,
    lengths,
    message,
    text,
    varint,
    varint_column,
)
from memtrace.outputs import Selection
from memtrace.trace import Process, Trace

MEASURES = ("allocated", "active", "reserved")
_ROWS_AT_A_TIME = 1 << 16
_EVERYTHING = (0, 2**63 - 1)


def write_perfetto(trace: Trace, selection: Selection, out: IO[bytes]) -> None:
    """Streams the trace as TracePackets; memory does not grow with the trace."""
    sequence = 1
    for process in trace.process_list:
        out.write(_clock_packet(process))
        break
    for process in trace.process_list:
        out.write(_process_packet(process, sequence))
        for chunk in slice_packets(
            _own_slices(trace, process, selection), process, sequence + 1, _uuid(process.key)
        ):
            out.write(chunk)
        sequence += 2
        for chunk, used in _counters(trace, process, selection, sequence):
            out.write(chunk)
            sequence = max(sequence, used + 1)


def _uuid(*names: str) -> int:
    """A track's id: the same in every export of a trace, so that exports can be compared."""
    joined = "\0".join(names).encode()
    return zlib.crc32(joined) << 32 | zlib.adler32(joined) | 1


def _clock_packet(process: Process) -> bytes:
    """Ties the packets' clock to the time of day."""
    monotonic = process.row["clock_origin_ns"] or 0
    unix = process.row["clock_origin_unix_ns"] or 0
    return f.packet(
        message(
            f.PACKET_CLOCK_SNAPSHOT,
            # Perfetto's packets are in BOOTTIME unless they say otherwise; it equals MONOTONIC
            # but for time spent suspended, which would put all clocks of this trace off alike.
            *(
                message(1, integer(1, clock), integer(2, time_ns))
                for clock, time_ns in (
                    (f.CLOCK_BOOTTIME, monotonic),
                    (f.CLOCK_MONOTONIC, monotonic),
                    (f.CLOCK_REALTIME, unix),
                )
            ),
        ),
        integer(f.PACKET_SEQUENCE_ID, 1),
    )


def _process_packet(process: Process, sequence: int) -> bytes:
    argv = process.argv
    name = shlex.join(argv) if argv else f"pid {process.pid}"
    if process.rank is not None:
        name = f"rank {process.rank}: {name}"
    descriptor = message(
        f.TRACK_PROCESS,
        integer(1, process.pid),
        *(text(2, word) for word in argv or ()),
        text(6, name),
    )
    return f.packet(
        message(f.PACKET_TRACK_DESCRIPTOR, integer(1, _uuid(process.key)), descriptor),
        integer(f.PACKET_SEQUENCE_ID, sequence),
    )


def _own_slices(trace: Trace, process: Process, selection: Selection) -> list[Slice]:
    start, end = selection.window_ns or _EVERYTHING
    return [
        item
        for item in slices_of(trace, process)
        if item.start_ns <= end and (item.end_ns is None or item.end_ns >= start)
    ]


def _counters(
    trace: Trace, process: Process, selection: Selection, sequence: int
) -> Iterator[tuple[bytes, int]]:
    """Bytes to write, each with the highest sequence number that it used."""
    devices = trace.devices_by_process[process.key]
    chosen = [device for device in devices if selection.device in (None, device)]
    tracks: dict[tuple[str, str], _CounterTrack] = {}
    for device in chosen:
        for of in MEASURES if device != "cpu" else MEASURES[:1]:
            track = _CounterTrack(process, f"{device} {of}", sequence)
            tracks[device, of] = track
            yield track.opening(), sequence
            sequence += 1
            if selection.window_ns is not None:
                before = last_moment(
                    trace, process=process.key, device=device, until_ns=selection.window_ns[0]
                )
                if before is not None and before.total_bytes(of) is not None:
                    value = before.total_bytes(of) or 0
                    start = np.array([selection.window_ns[0]], np.int64)
                    yield track.packets(start, np.array([value], np.int64)), track.sequence
    yield from _event_counters(trace, process, selection, tracks)
    if selection.device in (None, "cpu"):
        yield from _rss_counter(trace, process, selection, sequence)


def _event_counters(
    trace: Trace,
    process: Process,
    selection: Selection,
    tracks: dict[tuple[str, str], _CounterTrack],
) -> Iterator[tuple[bytes, int]]:
    start, end = selection.window_ns or _EVERYTHING
    columns = ["time_ns", "device", *(f"{of}_bytes" for of in MEASURES)]
    for group in trace.datasets["events"].row_groups(process.key):
        if _outside(group.bounds("time_ns"), start, end):
            continue
        table = group.read(columns)
        times = integers(table, "time_ns")
        inside = (times >= start) & (times <= end)
        for (device, of), track in tracks.items():
            totals = integers(table, f"{of}_bytes", missing=-1)
            rows = inside & equals(table, "device", device) & (totals >= 0)
            for chunk in track.changes(times[rows], totals[rows]):
                yield chunk, track.sequence


def _outside(bounds: Bounds | None, start: int, end: int) -> bool:
    if bounds is None or bounds.low is None:
        return False
    return bool(bounds.high < start or bounds.low > end)


def _rss_counter(
    trace: Trace, process: Process, selection: Selection, sequence: int
) -> Iterator[tuple[bytes, int]]:
    start, end = selection.window_ns or _EVERYTHING
    columns = ["time_ns", "target", "source", "metric", "value_bytes"]
    readings = []
    for group in trace.datasets["samples"].row_groups(process.key):
        for row in group.read(columns).to_pylist():
            is_rss = row["target"] == "host" and "rss" in (row["source"], row["metric"])
            if is_rss and row["value_bytes"] is not None and start <= row["time_ns"] <= end:
                readings.append((row["time_ns"], row["value_bytes"]))
    if readings:
        track = _CounterTrack(process, "host resident (RSS)", sequence)
        yield track.opening(), sequence
        times, values = np.array(sorted(readings), np.int64).T
        yield track.packets(times, values), sequence


class _CounterTrack:
    """One counter: its sequence, and the last value and time that were written of it."""

    def __init__(self, process: Process, name: str, sequence: int) -> None:
        self.sequence = sequence
        self._name = name
        self._process = _uuid(process.key)
        self._uuid = _uuid(process.key, "counter", name)
        self._origin_ns = process.row["clock_origin_ns"] or 0
        self._last_value = -1
        self._last_ns = 0

    def opening(self) -> bytes:
        """The track, and the defaults of its sequence."""
        descriptor = message(
            f.PACKET_TRACK_DESCRIPTOR,
            integer(1, self._uuid),
            text(2, self._name),
            integer(5, self._process),
            message(f.TRACK_COUNTER, integer(3, f.UNIT_SIZE_BYTES)),
        )
        defaults = message(f.PACKET_DEFAULTS, message(11, integer(11, self._uuid)))
        return f.packet(
            descriptor,
            integer(f.PACKET_SEQUENCE_ID, self.sequence),
            integer(f.PACKET_SEQUENCE_FLAGS, f.INCREMENTAL_STATE_CLEARED),
            defaults,
            integer(f.PACKET_FIRST_ON_SEQUENCE, 1),
        )

    def changes(self, times: Int64s, values: Int64s) -> Iterator[bytes]:
        """Packets where the value changes, times made to never go back."""
        changed = np.diff(values, prepend=self._last_value) != 0
        times, values = times[changed], values[changed]
        for at in range(0, len(times), _ROWS_AT_A_TIME):
            yield self.packets(times[at : at + _ROWS_AT_A_TIME], values[at : at + _ROWS_AT_A_TIME])

    def packets(self, times: Int64s, values: Int64s) -> bytes:
        """One packet a value."""
        # Order is the device's own; clocks of two threads may disagree with it by some ns.
        times = np.maximum.accumulate(np.maximum(times, self._last_ns))
        self._last_ns, self._last_value = int(times[-1]), int(values[-1])
        rows = len(times)
        value = varint_column(values)
        event_head = integer(f.EVENT_TYPE, f.TYPE_COUNTER) + varint(f.EVENT_COUNTER_VALUE << 3)
        event = (constant_column(rows, event_head), value)
        time = varint_column(times + self._origin_ns)
        body = (
            constant_column(rows, varint(f.PACKET_TIMESTAMP << 3)),
            time,
            constant_column(
                rows,
                integer(f.PACKET_SEQUENCE_ID, self.sequence)
                + integer(f.PACKET_SEQUENCE_FLAGS, f.NEEDS_INCREMENTAL_STATE)
                + varint(f.PACKET_TRACK_EVENT << 3 | 2),
            ),
            varint_column(lengths(*event)),
            *event,
        )
        head = constant_column(rows, varint(f.TRACE_PACKET << 3 | 2))
        return join(head, varint_column(lengths(*body)), *body)
