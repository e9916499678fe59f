"""What a reader of Perfetto files makes of one: tracks, counters, slices, instants, heap profiles.

Only perfetto's own protobufs are used. What its trace processor does with them is done here as it
does it: events are put in the order of time, those of one time as they come in the file.
"""

from __future__ import annotations

import io
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import pytest

from memtrace.export.perfetto import write_perfetto
from memtrace.outputs import Selection
from memtrace.trace import Trace

trace_pb2 = pytest.importorskip("perfetto.protos.perfetto.trace.perfetto_trace_pb2")
BEGIN, END, INSTANT, COUNTER = 1, 2, 3, 4
Frame = tuple[str, str, int]


@dataclass
class Slice:
    """A slice; `depth` 0 is the outermost."""

    name: str
    start_ns: int
    depth: int
    told: dict[str, Any]
    end_ns: int | None = None


@dataclass
class Instant:
    name: str
    time_ns: int
    category: str
    stack: tuple[Frame, ...]
    weight: float
    told: dict[str, Any]
    flows: list[int]
    ended_flows: list[int]


@dataclass
class HeapProfile:
    """Bytes and blocks by callstack (outermost frame first)."""

    pid: int
    time_ns: int
    samples: dict[tuple[Frame, ...], tuple[int, int]]


@dataclass
class _Interned:
    """What a sequence knows. Words are interned once, before they are used."""

    words: dict[str, dict[int, Any]] = field(default_factory=lambda: defaultdict(dict))

    def learn(self, data: Any) -> None:
        for kind, entries in data.ListFields():
            for entry in entries:
                assert entry.iid > 0
                assert entry.iid not in self.words[kind.name], "interned once"
                self.words[kind.name][entry.iid] = entry

    def name(self, kind: str, iid: int) -> str:
        entry = self.words[kind][iid]
        return entry.name if hasattr(entry, "name") else entry.str.decode()

    def stack(self, iid: int) -> tuple[Frame, ...]:
        frames = [
            self.words["frames"][number] for number in self.words["callstacks"][iid].frame_ids
        ]
        assert frames, "a stack has a frame"
        return tuple(
            (
                self.name("function_names", frame.function_name_id),
                self.name("source_paths", frame.source_path_iid) if frame.source_path_iid else "",
                frame.line_number,
            )
            for frame in frames
        )


class Parsed:
    """A file, read. Tracks are named by their names."""

    def __init__(self, data: bytes) -> None:
        message = trace_pb2.Trace()
        message.ParseFromString(data)
        self.packets = list(message.packet)
        self.notes: list[str] = []
        self.tracks: dict[int, Any] = {}
        self.clocks: dict[int, int] = {}
        self.attributes: dict[str, str] = {}
        self.counters: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self.slices: dict[str, list[Slice]] = defaultdict(list)
        self.instants: dict[str, list[Instant]] = defaultdict(list)
        self.heaps: dict[str, HeapProfile] = {}
        self._known: dict[int, _Interned] = {}
        self._defaults: dict[int, int] = {}
        self._open: dict[int, list[Slice]] = defaultdict(list)
        events = [packet for packet in self.packets if self._told(packet)]
        for packet in sorted(events, key=lambda packet: packet.timestamp):
            self._event(packet)

    def named(self, name: str) -> Any:
        """The descriptor of the track of this name; there is one."""
        (track,) = [track for track in self.tracks.values() if track.name == name]
        return track

    @property
    def flows(self) -> dict[int, tuple[list[Instant], list[Instant]]]:
        """Where each flow begins and where it ends."""
        found: dict[int, tuple[list[Instant], list[Instant]]] = defaultdict(lambda: ([], []))
        for instants in self.instants.values():
            for instant in instants:
                for flow in instant.flows:
                    found[flow][0].append(instant)
                for flow in instant.ended_flows:
                    found[flow][1].append(instant)
        return dict(found)

    def _told(self, packet: Any) -> bool:
        """Takes what is so from here on in the file; whether the packet is an event."""
        sequence = packet.trusted_packet_sequence_id
        assert sequence > 0
        if packet.HasField("clock_snapshot"):
            self.clocks = {c.clock_id: c.timestamp for c in packet.clock_snapshot.clocks}
        for attribute in packet.trace_attributes.attribute:
            self.attributes[attribute.key] = attribute.string_value
        if packet.sequence_flags & 1:
            assert sequence not in self._known, "a sequence begins once"
            self._known[sequence] = _Interned()
        if packet.HasField("trace_packet_defaults"):
            defaults = packet.trace_packet_defaults.track_event_defaults
            self._defaults[sequence] = defaults.track_uuid
        if packet.HasField("interned_data"):
            self._known[sequence].learn(packet.interned_data)
        if packet.HasField("track_descriptor"):
            descriptor = packet.track_descriptor
            assert descriptor.uuid not in self.tracks, "track ids are unique"
            assert not descriptor.parent_uuid or descriptor.parent_uuid in self.tracks
            self.tracks[descriptor.uuid] = descriptor
        if packet.HasField("profile_packet"):
            self._profile(packet)
        if packet.HasField("track_event"):
            assert packet.sequence_flags & 2
            self._words(packet)
            return True
        return False

    def _words(self, packet: Any) -> None:
        """All words of an event are known where it stands in the file."""
        known, event = self._known[packet.trusted_packet_sequence_id], packet.track_event
        if event.name_iid:
            known.name("event_names", event.name_iid)
        if event.callstack_iid:
            known.stack(event.callstack_iid)

    def _event(self, packet: Any) -> None:
        sequence, event = packet.trusted_packet_sequence_id, packet.track_event
        known = self._known[sequence]
        uuid = event.track_uuid or self._defaults[sequence]
        track = self.tracks[uuid]
        if event.type == COUNTER:
            assert track.HasField("counter")
            assert track.counter.unit == 3
            self.counters[track.name].append((packet.timestamp, event.counter_value))
            return
        assert not track.HasField("counter")
        if event.type == END:
            self._open[uuid].pop().end_ns = packet.timestamp
            return
        name = known.name("event_names", event.name_iid)
        told = dict(self._annotation(known, given) for given in event.debug_annotations)
        if event.type == BEGIN:
            around = self._open[uuid]
            around.append(Slice(name, packet.timestamp, len(around), told))
            self.slices[track.name].append(around[-1])
            return
        assert event.type == INSTANT
        self.instants[track.name].append(
            Instant(
                name,
                packet.timestamp,
                "".join(known.name("event_categories", iid) for iid in event.category_iids),
                known.stack(event.callstack_iid) if event.callstack_iid else (),
                event.callstack_weight,
                told,
                list(event.flow_ids),
                list(event.terminating_flow_ids),
            )
        )

    def _annotation(self, known: _Interned, annotation: Any) -> tuple[str, Any]:
        name = annotation.name
        if annotation.name_iid:
            name = known.name("debug_annotation_names", annotation.name_iid)
        kind = annotation.WhichOneof("value")
        value = getattr(annotation, kind)
        if kind == "string_value_iid":
            value = known.name("debug_annotation_string_values", value)
        return name, value

    def _profile(self, packet: Any) -> None:
        # A profile's time is of the coarse clock: without a snapshot before it, it is dropped.
        assert 4 in self.clocks
        assert packet.sequence_flags & 2
        known = self._known[packet.trusted_packet_sequence_id]
        for dump in packet.profile_packet.process_dumps:
            assert ":" not in dump.heap_name, "the UI cuts a heap's name at a colon"
            heap = self.heaps.setdefault(dump.heap_name, HeapProfile(dump.pid, dump.timestamp, {}))
            for sample in dump.samples:
                stack = known.stack(sample.callstack_id)
                held = heap.samples.get(stack, (0, 0))
                heap.samples[stack] = (
                    held[0] + sample.self_allocated, held[1] + sample.alloc_count,
                )  # fmt: skip


def exported(trace: Trace, selection: Selection | None = None) -> Parsed:
    """The trace as a Perfetto file, read back."""
    out = io.BytesIO()
    notes = write_perfetto(trace, selection or Selection(), out)
    parsed = Parsed(out.getvalue())
    parsed.notes = list(notes)
    return parsed
