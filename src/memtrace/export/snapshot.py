"""torch's memory snapshot: for pytorch.org/memory_viz and torch/cuda/_memory_viz.py.

Devices have their CUDA numbers. The CPU is one device more, after them: an allocation of it lies in
a segment of its own, which comes and goes with it. Written is what torch would write at the end of
the window: the segments as they are then, and the events of the window. Events from before the
recording (what was listed as it began) are left out, as torch's ring leaves out the oldest: readers
go back from the segments.

Memory grows by 4 bytes an allocation, and with what is live and with distinct stacks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from memtrace.analyse.allocator_settings import allocator_settings
from memtrace.analyse.counters import (
    Int64s,
    Moment,
    equals,
    integers,
    last_moment,
    may_hold,
    moment_before_first,
)
from memtrace.analyse.layout import Kind, Layout, layout_at
from memtrace.analyse.stage_list import stages_of
from memtrace.export.snapshot_pickle import (
    BEGIN,
    BEGIN_LIST,
    END,
    Columns,
    PickleWords,
    flag,
    get,
    integer,
    list_of,
    pair,
    real,
)
from memtrace.export.snapshot_sites import NO_SITE, UNCOUNTED, Sites, frames_of
from memtrace.export.thinned import Whole
from memtrace.outputs import Selection
from memtrace.trace import Process, Trace, device_order

_CPU = "cpu"
_MOST_DEVICES = 256
_ALWAYS = (0, 2**63 - 1)
#: Every key and word that is not the program's, written before all else: a key may then be
#: referred to, whatever the program calls its functions.
_WORDS = (
    "addr", "alloc", "free_requested", "free_completed", "segment_alloc",
    "segment_free", "segment_map", "segment_unmap", "oom", "snapshot", "active_allocated",
    "active_pending_free", "inactive", "large", "small", "device_free", "size", "stream",
    "time_us", "block_size", "action", "frames", "name", "filename", "line", "device", "address",
    "total_size", "allocated_size", "active_size", "requested_size", "segment_type",
    "segment_pool_id", "is_expandable", "blocks", "state", "stage", "segments", "device_traces",
)  # fmt: skip
_TEMPLATE = (
    "action:text", ":key", ":value", "size", "stream", "time_us", "block_size", "frames:text",
)  # fmt: skip
_EVENT_COLUMNS = (
    "seq", "time_ns", "device", "action", "allocation_id", "address", "size_bytes", "block_bytes",
    "stream", "device_free_bytes",
)  # fmt: skip
#: What an event of the CPU is in a snapshot: its segment comes and goes with it.
_CPU_EVENTS = {
    "alloc": ("segment_alloc", "alloc"),
    "preexisting": ("segment_alloc", "alloc"),
    "free_requested": ("free_requested", "free_completed", "segment_free"),
    "oom": ("oom",),
}


@dataclass(frozen=True)
class _Source:
    """One device of one process, and what is written of it."""

    process: Process
    device: str
    layout: Layout

    @property
    def last_seq(self) -> int:
        return self.layout.moment.seq


def write_snapshot(trace: Trace, selection: Selection, out: IO[bytes]) -> Sequence[str]:
    """Streams the pickle.

    Returns:
        What a person should know of the file, a line each.
    """
    _Writing(trace, selection, out).run()
    if any(process.dropped is not None for process in trace.process_list):
        return ["memory_viz adds up single allocations: its curve lacks those that were left out"]
    return []


class _Writing:
    def __init__(self, trace: Trace, selection: Selection, out: IO[bytes]) -> None:
        self._trace = trace
        self._out = out
        self._words = PickleWords()
        self._window = selection.window_ns or _ALWAYS
        self._sources = _sources(trace, selection)
        self._sites: dict[str, Sites] = {}
        self._frames: dict[str, npt.NDArray[np.uint32]] = {}  # memo number of each site's list

    def run(self) -> None:
        text, out = self._words.text, self._out
        out.write(BEGIN)
        self._write_ours()
        self._write_item("segments", list_of(self._segments()))
        out.write(text("device_traces") + BEGIN_LIST)
        template = self._words.template(_TEMPLATE)
        for source in self._sources:
            out.write(b"(" + BEGIN_LIST)  # one device a time into the list of devices
            if source is not None:
                for columns in self._events(source):
                    for rows in template.rows(columns):
                        out.write(rows)
            out.write(b"e")
        self._write_item("allocator_settings", self._settings())
        self._write_item("external_annotations", list_of(self._annotations()))
        out.write(END)

    def _write_item(self, key: str, value: bytes) -> None:
        self._out.write(self._words.text(key) + value)

    def _write_ours(self) -> None:
        """What no reader but ours looks at: devices, and what the rest refers to by number."""
        text, out = self._words.text, self._out
        devices = [_CPU if s is not None and s.device == _CPU else "cuda" for s in self._sources]
        self._write_item("memtrace_devices", list_of(text(device) for device in devices))
        self._write_item("memtrace_words", list_of(text(word) for word in _WORDS))
        out.write(text("memtrace_frames") + BEGIN_LIST)
        for key in dict.fromkeys(s.process.key for s in self._sources if s is not None):
            devices = [s.device for s in self._sources if s is not None and s.process.key == key]
            sites = self._sites[key] = Sites(self._trace, key, devices)
            numbers = []
            for frames in frames_of(self._trace, key, sites.distinct):
                encoded, number = self._words.kept_list(
                    self._words.frame(*frame) for frame in frames
                )
                out.write(b"(" + encoded + b"e")
                numbers.append(number)
            self._frames[key] = np.array(numbers, np.uint32)

    # ---- segments -----------------------------------------------------------------------------

    def _segments(self) -> Iterator[bytes]:
        for number, source in enumerate(self._sources):
            if source is None:
                continue
            rows = source.layout.rows
            sites = self._sites[source.process.key].of(integers(rows, "allocation_id"))
            requested = integers(rows, "size_bytes")
            for kind, start, size, places in _pieces(source):
                yield self._segment(number, kind, start, size, source, places, sites, requested)

    def _segment(
        self,
        device: int,
        kind: Kind,
        start: int,
        size: int,
        source: _Source,
        places: range,
        sites: npt.NDArray[np.int32],
        requested: Int64s,
    ) -> bytes:
        layout, frames = source.layout, self._frames[source.process.key]
        blocks, at = [], start
        waiting = 0
        for place in places:
            address = int(layout.blocks.start[place])
            held = int(layout.blocks.size[place])
            if address > at:
                blocks.append(self._block(at, address - at, 0, "inactive", get(int(frames[0]))))
            state = "active_pending_free" if layout.waiting[place] else "active_allocated"
            waiting += held if layout.waiting[place] else 0
            site = max(int(sites[place]), NO_SITE)
            asked = int(requested[place])
            blocks.append(self._block(address, held, asked, state, get(int(frames[site]))))
            at = address + held
        if at < start + size:
            blocks.append(self._block(at, start + size - at, 0, "inactive", get(int(frames[0]))))
        active = int(layout.blocks.size[places.start : places.stop].sum())
        text = self._words.text
        return self._words.mapping(
            device=integer(device),
            address=integer(start),
            total_size=integer(size),
            allocated_size=integer(active - waiting),
            active_size=integer(active),
            requested_size=integer(int(requested[places.start : places.stop].sum())),
            stream=integer(kind.stream),
            segment_type=text("small" if kind.small else "large"),
            segment_pool_id=pair(*_pool_id(kind.pool)),
            is_expandable=flag(kind.expandable),
            frames=get(int(frames[0])),
            blocks=list_of(blocks),
        )

    def _block(self, address: int, size: int, requested: int, state: str, frames: bytes) -> bytes:
        return self._words.mapping(
            address=integer(address),
            size=integer(size),
            requested_size=integer(requested),
            state=self._words.text(state),
            frames=frames,
        )

    # ---- events -------------------------------------------------------------------------------

    def _events(self, source: _Source) -> Iterator[Columns]:
        start, end = self._window
        first = _after_listing(self._trace, source) if source.device != _CPU else 0
        whole = Whole(self._trace, source.process)
        for group in self._trace.datasets["events"].row_groups(source.process.key):
            if not may_hold(group, "device", source.device):
                continue
            table = group.read(_EVENT_COLUMNS)
            seqs, times = integers(table, "seq"), integers(table, "time_ns")
            chosen = equals(table, "device", source.device) & (seqs >= first)
            chosen &= (seqs <= source.last_seq) & (times >= start) & (times <= end)
            chosen &= whole.of(table)
            if chosen.any():
                columns = self._event_columns(source, table.filter(pa.array(chosen)))
                if len(columns["size"]):
                    yield columns

    def _event_columns(self, source: _Source, table: pa.Table) -> Columns:
        known = self._sites[source.process.key]
        sites = known.of(integers(table, "allocation_id", missing=UNCOUNTED))
        if known.of_failures:
            failed = np.flatnonzero(equals(table, "action", "oom"))
            for row, seq in zip(failed, integers(table, "seq")[failed].tolist(), strict=True):
                sites[row] = known.of_failures[seq]
        column = table.column("action").cast(pa.string()).combine_chunks().dictionary_encode()
        words = [word or "" for word in column.dictionary.to_pylist()]
        codes = np.asarray(column.indices.fill_null(0), np.int64)
        if source.device == _CPU:
            rows, actions = self._expanded(words, codes, sites)
        else:
            rows, actions = np.arange(len(codes)), self._places(words)[codes]
        place = self._words.place
        oom = actions == place("oom")
        origin_ns = source.process.row["clock_origin_unix_ns"] or 0
        address = integers(table, "address")[rows]
        return {
            "action:text": actions,
            ":key": np.where(oom, place("device_free"), place("addr")),
            ":value": np.where(oom, integers(table, "device_free_bytes")[rows], address),
            "size": integers(table, "size_bytes")[rows],
            "stream": integers(table, "stream")[rows],
            "time_us": (integers(table, "time_ns")[rows] + origin_ns) // 1000,
            "block_size": integers(table, "block_bytes")[rows],
            "frames:text": self._frames[source.process.key][np.maximum(sites, NO_SITE)[rows]],
        }

    def _places(self, words: list[str]) -> Int64s:
        known = [word if word in _WORDS else "snapshot" for word in words]
        return np.array([self._words.place(word) for word in known], np.int64)

    def _expanded(
        self, words: list[str], codes: Int64s, sites: npt.NDArray[np.int32]
    ) -> tuple[Int64s, Int64s]:
        """Events of the CPU, each as several: of which row they are, and their actions."""
        becomes = [_CPU_EVENTS.get(word, ()) for word in words]
        counts = np.array([len(actions) for actions in becomes], np.int64)[codes]
        counts[sites == UNCOUNTED] = 0
        rows = np.repeat(np.arange(len(codes)), counts)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        table = np.zeros((len(words), 3), np.int64)
        for code, actions in enumerate(becomes):
            table[code, : len(actions)] = [self._words.place(action) for action in actions]
        return rows, table[codes[rows], within]

    # ---- the rest -----------------------------------------------------------------------------

    def _settings(self) -> bytes:
        found: dict[str, Any] = {}
        for source in self._sources:
            if source is not None:
                found = found or allocator_settings(source.process)
        divisions = found.get("roundup_power2_divisions", [])
        words = self._words
        return words.mapping(
            PYTORCH_CUDA_ALLOC_CONF=words.text(found.get("conf", "")),
            max_split_size=integer(found.get("max_split_size") or -1),
            garbage_collection_threshold=real(found.get("garbage_collection_threshold", 0.0)),
            expandable_segments=flag(found.get("expandable_segments", False)),
            roundup_power2_divisions=words.mapping(
                **{str(1 << power): integer(n) for power, n in enumerate(divisions)}
            ),
        )

    def _annotations(self) -> Iterator[bytes]:
        """Stages, as torch's profiler annotates a snapshot."""
        start, end = self._window
        processes = {s.process.key: s.process for s in self._sources if s is not None}
        for process in processes.values():
            origin_ns = process.row["clock_origin_unix_ns"] or 0
            for stage in stages_of(self._trace, process):
                if stage.kind == "whole" or stage.end_time_ns < start or stage.start_time_ns > end:
                    continue
                for word, time_ns in (("START", stage.start_time_ns), ("END", stage.end_time_ns)):
                    yield self._words.mapping(
                        name=self._words.text(stage.name),
                        stage=self._words.text(word),
                        device=integer(0),
                        time_us=integer((time_ns + origin_ns) // 1000),
                    )


def _sources(trace: Trace, selection: Selection) -> list[_Source | None]:
    """Devices by their number in the snapshot; None where the trace has no such device."""
    found = [
        (process, device)
        for process in trace.process_list
        for device in sorted(trace.devices_by_process[process.key], key=device_order)
        if selection.device in (None, device)
    ]
    until = None if selection.window_ns is None else selection.window_ns[1]
    sources: list[_Source | None] = []
    for process, device in sorted(found, key=lambda item: item[1] == _CPU):
        moment = last_moment(trace, process=process.key, device=device, until_ns=until)
        moment = moment or moment_before_first(process.key, device)
        source = _Source(process, device, _layout(trace, moment, process))
        if len(trace.process_list) == 1 and device != _CPU:
            number = device.rpartition(":")[2]
            gap = int(number) - len(sources) if number.isdecimal() else 0
            sources += [None] * (gap if gap < _MOST_DEVICES else 0)
        sources.append(source)
    return sources


def _layout(trace: Trace, moment: Moment, process: Process) -> Layout:
    return layout_at(trace, moment, process, columns=["allocation_id", "size_bytes"])


def _pieces(source: _Source) -> Iterator[tuple[Kind, int, int, range]]:
    """Each segment: its kind, address, size, and the blocks in it by their places in the layout."""
    layout = source.layout
    alone = Kind("default", False, False, 0)
    for area, start in enumerate(layout.areas.start.tolist()):
        inside = np.flatnonzero(layout.blocks.home == area)
        places = range(int(inside[0]), int(inside[-1]) + 1) if len(inside) else range(0)
        kind = layout.kinds[int(layout.area_kind[area])]
        yield kind, start, int(layout.areas.size[area]), places
    # Of the CPU all of them; of a CUDA device such as lie in no segment that was recorded.
    for place in np.flatnonzero(layout.blocks.home < 0).tolist():
        start, size = int(layout.blocks.start[place]), int(layout.blocks.size[place])
        yield alone, start, size, range(place, place + 1)


def _after_listing(trace: Trace, source: _Source) -> int:
    """The first event after what was listed as the recording began."""
    last = -1
    for group in trace.datasets["events"].row_groups(source.process.key):
        if may_hold(group, "action", "preexisting") and may_hold(group, "device", source.device):
            table = group.read(["seq", "device", "action"])
            listed = equals(table, "device", source.device) & equals(table, "action", "preexisting")
            if listed.any():
                last = int(integers(table, "seq")[listed].max())
    return last + 1


def _pool_id(pool: str) -> tuple[int, int]:
    """torch's id of a pool, from our name of it ("default", "graph:2", "mempool:3.1")."""
    kind, _, numbers = pool.partition(":")
    first, _, second = numbers.partition(".")
    if not first.isdigit() or not (second or "0").isdigit():
        return 0, 0
    if kind == "graph":
        return int(first), 0
    return int(second or 0), int(first)
