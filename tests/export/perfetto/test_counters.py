"""The export, read back with perfetto's own protobufs."""

from __future__ import annotations

import gzip
import io
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from memtrace.export.perfetto import write_perfetto
from memtrace.output_file import output_file
from memtrace.outputs import OUTPUTS, Selection, find_output
from memtrace.trace import Trace, open_trace
from trace_builder import ORIGIN_NS, ORIGIN_UNIX_NS, TraceBuilder, serving_trace

trace_pb2 = pytest.importorskip("perfetto.protos.perfetto.trace.perfetto_trace_pb2")
BEGIN, END, COUNTER = 1, 2, 4


class Parsed:
    """What a Perfetto reader makes of a file: tracks, counters and slices."""

    def __init__(self, data: bytes) -> None:
        message = trace_pb2.Trace()
        message.ParseFromString(data)
        self.packets = list(message.packet)
        self.tracks: dict[int, Any] = {}
        self.counters: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self.slices: dict[str, list[tuple[int, str]]] = defaultdict(list)
        self.clocks: dict[int, int] = {}
        defaults: dict[int, int] = {}
        names: dict[int, dict[int, str]] = defaultdict(dict)
        cleared: set[int] = set()
        for packet in self.packets:
            sequence = packet.trusted_packet_sequence_id
            assert sequence > 0
            if packet.HasField("clock_snapshot"):
                self.clocks = {c.clock_id: c.timestamp for c in packet.clock_snapshot.clocks}
            if packet.sequence_flags & 1:
                assert sequence not in cleared, "a sequence begins once"
                cleared.add(sequence)
                names[sequence].clear()
            if packet.HasField("trace_packet_defaults"):
                defaults[sequence] = packet.trace_packet_defaults.track_event_defaults.track_uuid
            for entry in packet.interned_data.event_names:
                names[sequence][entry.iid] = entry.name
            if packet.HasField("track_descriptor"):
                descriptor = packet.track_descriptor
                assert descriptor.uuid not in self.tracks, "track ids are unique"
                assert not descriptor.parent_uuid or descriptor.parent_uuid in self.tracks
                self.tracks[descriptor.uuid] = descriptor
            if not packet.HasField("track_event"):
                continue
            assert packet.sequence_flags & 2
            assert sequence in cleared
            event = packet.track_event
            track = self.tracks[event.track_uuid or defaults[sequence]]
            if event.type == COUNTER:
                assert track.HasField("counter")
                assert track.counter.unit == 3
                self.counters[track.name].append((packet.timestamp, event.counter_value))
            elif event.type == BEGIN:
                name = names[sequence][event.name_iid]
                self.slices[track.name].append((packet.timestamp, name))
            else:
                assert event.type == END
                self.slices[track.name].append((packet.timestamp, "end"))


def exported(trace: Trace, selection: Selection | None = None) -> Parsed:
    out = io.BytesIO()
    write_perfetto(trace, selection or Selection(), out)
    return Parsed(out.getvalue())


@pytest.fixture
def serving(tmp_path: Path) -> Trace:
    return open_trace(serving_trace(tmp_path / "serve.memtrace"))


def changes(trace: Trace, device: str, column: str) -> list[tuple[int, int]]:
    """What the counter must show: the value at each event that changed it."""
    found: list[tuple[int, int]] = []
    for row in trace.events.to_pylist():
        if row["device"] == device and (not found or found[-1][1] != row[column]):
            found.append((ORIGIN_NS + row["time_ns"], row[column]))
    return found


def test_counters_are_the_traces_own_totals(serving: Trace) -> None:
    parsed = exported(serving)
    for of in ("allocated", "active", "reserved"):
        expected = changes(serving, "cuda:0", f"{of}_bytes")
        assert parsed.counters[f"cuda:0 {of}"] == expected
        assert len(expected) > 3
    assert parsed.counters["cpu allocated"] == changes(serving, "cpu", "allocated_bytes")
    assert [value for _, value in parsed.counters["host resident (RSS)"]] == [
        900 * 2**20, 1100 * 2**20,
    ]  # fmt: skip
    assert len(parsed.counters) == 5


def test_process_and_clock(serving: Trace) -> None:
    parsed = exported(serving)
    (process,) = [t for t in parsed.tracks.values() if t.HasField("process")]
    assert process.process.pid == 100
    assert list(process.process.cmdline) == ["serve.py", "--requests", "3"]
    assert process.process.process_name == "serve.py --requests 3"
    assert parsed.clocks == {6: ORIGIN_NS, 3: ORIGIN_NS, 1: ORIGIN_UNIX_NS}


def test_stages_are_slices_of_their_thread(serving: Trace) -> None:
    parsed = exported(serving)
    (process,) = [t for t in parsed.tracks.values() if t.HasField("process")]
    (track,) = [t for t in parsed.tracks.values() if t.name == "stages of thread 1"]
    assert track.parent_uuid == process.uuid
    assert [name for _, name in parsed.slices["stages of thread 1"]] == [
        "load",
        "end",
        "serve",
        "end",
    ]
    stages = serving.stages.to_pylist()
    assert [time - ORIGIN_NS for time, _ in parsed.slices["stages of thread 1"]] == [
        time for row in stages for time in (row["start_time_ns"], row["end_time_ns"])
    ]


def test_no_counter_goes_back_in_time_when_clocks_disagree(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    for size in (512, 1024, 2048):
        process.alloc("cuda:0", size)
    process.rows["events"][1]["time_ns"] = 10
    times = [time for time, _ in exported(open_trace(builder.write())).counters["cuda:0 allocated"]]
    assert times == sorted(times)
    assert len(times) == 3


def test_slices_nest_or_go_to_another_track(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    process.alloc("cpu", 1)
    spans = [("a", 0, 100), ("b", 10, 50), ("b2", 50, 60), ("c", 40, 70), ("killed", 80, None),
             ("none", 100, 100)]  # fmt: skip
    for number, (name, start, end) in enumerate(spans):
        process.rows["stages"].append(
            {"stage_id": number, "name": name, "start_time_ns": start, "end_time_ns": end}
        )
    process.rows["steps"].append(
        {"step": 3, "kind": "inference", "root_module": "GPT2", "start_time_ns": 5,
         "end_time_ns": 9}
    )  # fmt: skip
    parsed = exported(open_trace(builder.write()))
    tracks = defaultdict(list)
    for packet in parsed.packets:
        if packet.HasField("track_event") and packet.track_event.type != COUNTER:
            event = packet.track_event
            tracks[event.track_uuid].append((packet.timestamp - ORIGIN_NS, event.type))
    assert len(tracks) == 3, "stages on two tracks, steps on one"
    for edges in tracks.values():
        assert [time for time, _ in edges] == sorted(time for time, _ in edges)
        depth = 0
        for _, kind in edges:
            depth += 1 if kind == BEGIN else -1
            assert depth >= 0
    assert parsed.slices["steps"] == [(ORIGIN_NS + 5, "inference GPT2 3"), (ORIGIN_NS + 9, "end")]
    begun = [name for _, name in parsed.slices["stages"] if name != "end"]
    assert sorted(begun) == sorted(name for name, _, _ in spans)


def test_a_window_starts_with_the_value_before_it(serving: Trace) -> None:
    whole = exported(serving).counters["cuda:0 allocated"]
    start, end = whole[4][0] - ORIGIN_NS + 1, whole[9][0] - ORIGIN_NS
    parsed = exported(serving, Selection(device="cuda:0", window_ns=(start, end)))
    assert parsed.counters["cuda:0 allocated"] == [(ORIGIN_NS + start, whole[4][1]), *whole[5:10]]
    assert not any("cpu" in name or "RSS" in name for name in parsed.counters)
    assert [name for _, name in parsed.slices["stages of thread 1"]] == [
        "load",
        "end",
        "serve",
        "end",
    ]


def test_every_process_has_tracks_of_its_own(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    for rank in range(3):
        process = builder.process(100 + rank, rank=rank)
        with process.stage("s"):
            process.alloc("cuda:0", 512 * (rank + 1))
    parsed = exported(open_trace(builder.write()))
    assert sorted(v for _, v in parsed.counters["cuda:0 allocated"]) == [512, 1024, 1536]
    sequences = defaultdict(set)
    for packet in parsed.packets:
        if packet.track_event.type == COUNTER:
            sequences[packet.trusted_packet_sequence_id].add(packet.track_event.counter_value)
    names = [t.process.process_name for t in parsed.tracks.values() if t.HasField("process")]
    assert names == [f"rank {rank}: serve.py --requests 3" for rank in range(3)]


def test_more_rows_than_are_encoded_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memtrace.export.perfetto._ROWS_AT_A_TIME", 3)
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    for size in range(1, 12):
        process.alloc("cuda:0", 512 * size)
    trace = open_trace(builder.write(rows_per_group=100))
    counters = exported(trace).counters["cuda:0 allocated"]
    assert counters == changes(trace, "cuda:0", "allocated_bytes")
    assert len(counters) == 11


def test_gz_by_suffix(tmp_path: Path, serving: Trace) -> None:
    plain = io.BytesIO()
    write_perfetto(serving, Selection(), plain)
    with output_file(tmp_path / "x.gz", force=False) as out:
        find_output("perfetto").load()(serving, Selection(), out)
    assert gzip.decompress((tmp_path / "x.gz").read_bytes()) == plain.getvalue()


def test_the_registry_loads(serving: Trace) -> None:
    names = [spec.name for spec in OUTPUTS]
    assert len(set(names)) == len(names)
    for spec in OUTPUTS:
        assert callable(spec.load())
        assert spec.suffix.startswith(".")
