"""Whole random programs, through a recorder, the finaliser and the live view, against an oracle."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finalise.program_streams import (
    MODULES,
    STACKS,
    Happening,
    StreamWriter,
    random_stream,
    surviving,
)
from finalise.stream_oracle import Expected, Places, Row, same
from memtrace import _core
from memtrace.finalise import finalise
from native_spool import NativeSpool
from spool_writer import KINDS, SpoolWriter, rows

_SETTINGS = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
_DEVICES = [{"device": f"cuda:{i}", "total_bytes": 1 << 34} for i in range(2)]
_NS_PER_PLACE = 10
_GROUPINGS = ("operator", "module", "source")
_RECORD_BYTES, _TAIL_BYTES = 64, 8


def fresh(tmp_path: Path) -> Path:
    return tmp_path / f"{len(list(tmp_path.iterdir()))}.memtrace"


@_SETTINGS
@given(seed=st.integers(0, 1 << 32), happenings=st.integers(0, 400), threads=st.integers(1, 4))
def test_a_spool_of_the_rules(tmp_path: Path, seed: int, happenings: int, threads: int) -> None:
    trace_dir, random = fresh(tmp_path), Random(seed)
    stream = random_stream(random, happenings=happenings, threads=threads)
    spool = SpoolWriter(trace_dir, chunk_bytes=_RECORD_BYTES * random.choice([3, 17, 1024]))
    write(stream, StreamWriter(spool, threads, lambda at: _NS_PER_PLACE * at))
    path = spool.finish(last_chunks_in_windows=random.random() < 0.5)
    check_live(path, Expected(stream))
    finalise(trace_dir)
    check_rows(trace_dir, Expected(stream), Places(lambda place: _NS_PER_PLACE * place))


@_SETTINGS
@given(seed=st.integers(0, 1 << 32), happenings=st.integers(0, 400), looks=st.integers(0, 3))
def test_a_spool_of_the_recorder(tmp_path: Path, seed: int, happenings: int, looks: int) -> None:
    trace_dir, random = fresh(tmp_path), Random(seed)
    stream = random_stream(random, happenings=happenings)
    spool = NativeSpool(trace_dir)
    writer = StreamWriter(spool, 3, lambda _: spool.recorder.ticks())
    live = _core.Live(spool.path)
    for part in range(looks + 1):  # read while it is written
        length = -(-len(stream) // (looks + 1))
        write(stream[part * length : (part + 1) * length], writer, first=part == 0)
        live.advance()
    path = spool.finish()
    check_live(path, Expected(stream), live)
    finalise(trace_dir)
    check_rows(trace_dir, Expected(stream), Places())


def test_windows_that_are_full_are_appended(tmp_path: Path) -> None:
    """Several windows of each thread, which the recorder turns over."""
    trace_dir = tmp_path / "t.memtrace"
    stream = random_stream(Random(4), happenings=36_000)
    spool = NativeSpool(trace_dir)
    write(stream, StreamWriter(spool, 3, lambda _: spool.recorder.ticks()))
    path = spool.finish()
    assert (path / "records.bin").stat().st_size > 0
    check_live(path, Expected(stream))
    finalise(trace_dir)
    check_rows(trace_dir, Expected(stream), Places())


def write(stream: list[Happening], writer: StreamWriter, *, first: bool = True) -> None:
    if first:
        writer.spool.process(devices=_DEVICES)
    for happening in stream:
        writer.write(happening)


# ---- what the trace holds -----------------------------------------------------------------------


def check_rows(trace_dir: Path, expected: Expected, places: Places) -> None:
    events, allocations = rows(trace_dir, "events"), rows(trace_dir, "allocations")
    check_memory(events, allocations, expected, places)
    check_calls(trace_dir, events, allocations, expected, places)
    for name, wanted in (("stages", expected.stages), ("steps", expected.steps)):
        key = name.removesuffix("s").replace("stage", "stage_id")
        found = sorted(rows(trace_dir, name), key=lambda row: row[key])
        made = [row for row in found if row.get("kind") != "auto"]
        known = [{k: v for k, v in row.items() if k != "block"} for row in wanted]
        same(made, sorted(known, key=lambda row: row[key]), places)
    marks = [row for row in rows(trace_dir, "marks") if row["kind"] != "oom"]
    same(marks, expected.marks, places)
    same(rows(trace_dir, "samples"), expected.samples, places)
    check_names(trace_dir, allocations, expected, places)
    check_segments(trace_dir, expected)
    check_timeline(trace_dir, events, expected)
    check_stacks(trace_dir, expected)
    (process,) = rows(trace_dir, "processes")
    assert (process["events"], process["lost_total"]) == (expected.seq, 0)
    lost = json.loads(process["lost_events"])
    assert (process["unmatched_frees"], lost["missed_frees"]) == (0, 0)
    assert {kind for kind, number in lost.items() if number} == set()
    places.check_order()


def check_memory(
    events: list[Row], allocations: list[Row], expected: Expected, places: Places
) -> None:
    ids = {row["alloc_seq"]: row["allocation_id"] for row in allocations}
    same(
        sorted(events, key=lambda row: row["seq"]),
        [{**of_events(row), "allocation_id": id_of(row, ids)} for row in expected.events],
        places,
    )
    same(
        sorted(allocations, key=lambda row: row["alloc_seq"]),
        expected.allocations,
        places,
    )


def of_events(row: Row) -> Row:
    return {column: value for column, value in row.items() if column != "allocation"}


def id_of(row: Row, ids: dict[int, int]) -> int | None:
    return None if row["allocation"] is None else ids[row["allocation"]["alloc_seq"]]


def check_calls(
    trace_dir: Path, events: list[Row], allocations: list[Row], expected: Expected, places: Places
) -> None:
    found = sorted(rows(trace_dir, "operators"), key=lambda row: row["end_time_ns"])
    numbers = {
        (row["thread_id"], row["number"]): ours["call_id"]
        for ours, row in zip(found, expected.calls, strict=True)
    }
    wanted = [
        {
            **{k: v for k, v in row.items() if k not in ("number", "around")},
            "parent_call_id": numbers.get((row["thread_id"], row["around"])),
        }
        for row in expected.calls
    ]
    same(found, wanted, places)
    of_call = {ours["call_id"]: row["name"] for ours, row in zip(found, wanted, strict=True)}
    for row in allocations:
        assert of_call.get(row["operator_call_id"]) == row["operator"]
        assert events[row["alloc_seq"]]["operator_call_id"] == row["operator_call_id"]


def check_names(
    trace_dir: Path, allocations: list[Row], expected: Expected, places: Places
) -> None:
    ids = {row["alloc_seq"]: row["allocation_id"] for row in allocations}
    wanted = [{**of_events(row), "allocation_id": id_of(row, ids)} for row in expected.names]
    found = sorted(rows(trace_dir, "names"), key=lambda row: int(row["name"].split()[1]))
    same(found, wanted, places)


def check_segments(trace_dir: Path, expected: Expected) -> None:
    """Live ones sum to what is reserved, after each event."""
    segments = rows(trace_dir, "segments")
    for device in expected.devices():
        changes = [0] * (expected.seq + 1)
        for row in segments:
            if row["device"] == device:
                changes[row["alloc_seq"]] += row["size_bytes"]
                if row["free_seq"] is not None:
                    changes[row["free_seq"]] -= row["size_bytes"]
        reserved = 0
        for event, change in zip(expected.events, changes, strict=False):
            reserved += change
            if event["device"] == device != "cpu":
                assert reserved == event["reserved_bytes"]


def check_timeline(trace_dir: Path, events: list[Row], expected: Expected) -> None:
    """Of each bin: the least, most and last that stood in it, with what it began with."""
    metrics = {"allocated": "allocated_bytes", "active": "active_bytes",
               "reserved": "reserved_bytes"}  # fmt: skip
    found = rows(trace_dir, "timeline")
    for device in expected.devices():
        of_device = [row for row in events if row["device"] == device]
        for metric, column in metrics.items():
            bins = [r for r in found if (r["device"], r["metric"]) == (device, metric)]
            if device == "cpu" and metric != "allocated":
                assert bins == []
                continue
            ends = [*(b["bin_start_ns"] for b in bins[1:]), float("inf")]
            values = [0]
            for each, end in zip(bins, ends, strict=True):
                inside = [
                    row[column] for row in of_device if each["bin_start_ns"] <= row["time_ns"] < end
                ]
                values = [values[-1], *inside]
                told = (each["min_bytes"], each["max_bytes"], each["last_bytes"])
                assert told == (min(values), max(values), values[-1])
            assert values[-1] == of_device[-1][column]


def check_stacks(trace_dir: Path, expected: Expected) -> None:
    used = {row["stack_id"] for row in expected.events} - {None}
    found = rows(trace_dir, "stacks")
    for number, (frames, (source, _, _)) in enumerate(STACKS, 1):
        ours = sorted(
            (row for row in found if row["stack_id"] == number), key=lambda row: row["depth"]
        )
        assert ours or number not in used
        if ours:
            told = [(row["function"], row["file"], row["line"]) for row in ours]
            assert told == [frame[:3] for frame in frames]
            classes = [None if m is None else MODULES[m][0] for *_, m in frames]
            assert [row["module_class"] for row in ours] == classes
            assert ours[0]["source"] == source


def check_live(path: Path, expected: Expected, live: Any = None) -> None:
    """The live view of a recording that has ended says the same sums."""
    live = live or _core.Live(path)
    while not live.advance(ended=True):
        pass
    state = live.state()
    assert (state["events"], set(state["lost"].values())) == (expected.seq, {0})
    for device, told in live.devices().items():
        now = [row for row in expected.events if row["device"] == device][-1]
        peak = expected.peak(device)
        assert told["allocated_bytes"] == now["allocated_bytes"]
        assert told["active_bytes"] == now["active_bytes"]
        assert told["reserved_bytes"] == now["reserved_bytes"]
        assert told["peak_allocated_bytes"] == peak["allocated_bytes"]
        allocations = [row for row in expected.allocations if row["device"] == device]
        assert told["allocations"] == len(allocations)
        assert told["frees"] == sum(row["free_seq"] is not None for row in allocations)
        ooms = [e for e in expected.events if (e["device"], e["action"]) == (device, "oom")]
        assert told["ooms"] == len(ooms)
        if not allocations:
            continue
        for by in _GROUPINGS:
            groups = live.groups(device, by)
            held = {name: (size, blocks) for name, size, blocks, _, _ in groups if blocks}
            assert held == expected.held(device, now["seq"], by)
            held = {name: (size, blocks) for name, _, _, size, blocks in groups if blocks}
            assert held == expected.held(device, peak["seq"], by)
    assert sorted(live.devices()) == expected.devices()


# ---- recordings that were cut off ---------------------------------------------------------------


def whole_records(stream: list[Happening]) -> dict[int, int]:
    """By log."""
    counts: dict[int, int] = {}
    for happening in stream:
        if happening.what != "nothing":
            counts[happening.log] = counts.get(happening.log, 0) + 1
    return counts


def cut_windows(path: Path, random: Random, chunk_bytes: int) -> dict[int, int]:
    """Each window ends at a random byte, as in a process that was killed. How many are left of it.

    A record's tail is written last, at once: half of one is none.
    """
    left: dict[int, int] = {}
    data = bytearray((path / "windows.bin").read_bytes())
    for start in range(0, len(data), chunk_bytes):
        window = memoryview(data)[start : start + chunk_bytes]
        log, index = struct.unpack_from("<IQ", window, 4)
        end = random.randrange(_RECORD_BYTES, chunk_bytes + 1)
        if end % _RECORD_BYTES > _RECORD_BYTES - _TAIL_BYTES:
            end -= end % _RECORD_BYTES - (_RECORD_BYTES - _TAIL_BYTES)
        window[end:] = bytes(chunk_bytes - end)
        per_chunk = chunk_bytes // _RECORD_BYTES - 1
        left[log] = index * per_chunk + min(end // _RECORD_BYTES - 1, per_chunk)
        window.release()
    (path / "windows.bin").write_bytes(data)
    return left


def killed(
    trace_dir: Path, random: Random, happenings: int
) -> tuple[list[Happening], SpoolWriter, int]:
    """A stream, the spool of its process, which did not come to its end, and bytes of a chunk."""
    stream = random_stream(random, happenings=happenings, to_be_cut=True)
    chunk_bytes = _RECORD_BYTES * random.choice([3, 17, 128])
    spool = SpoolWriter(trace_dir, chunk_bytes=chunk_bytes, end=None, exit_status=None)
    write(stream, StreamWriter(spool, 3, lambda at: _NS_PER_PLACE * at))
    return stream, spool, chunk_bytes


@_SETTINGS
@given(seed=st.integers(0, 1 << 32), happenings=st.integers(1, 300))
def test_of_a_killed_process_all_that_is_whole_is_there(
    tmp_path: Path, seed: int, happenings: int
) -> None:
    trace_dir, random = fresh(tmp_path), Random(seed)
    stream, spool, chunk_bytes = killed(trace_dir, random, happenings)
    path = spool.finish(last_chunks_in_windows=True)
    kept = {**whole_records(stream), **cut_windows(path, random, chunk_bytes)}
    left = surviving(stream, kept)
    check_cut(trace_dir, Expected(left))


@_SETTINGS
@given(seed=st.integers(0, 1 << 32), happenings=st.integers(1, 300))
def test_of_a_file_that_was_cut_all_that_is_whole_is_there_and_the_rest_is_counted(
    tmp_path: Path, seed: int, happenings: int
) -> None:
    trace_dir, random = fresh(tmp_path), Random(seed)
    stream, spool, chunk_bytes = killed(trace_dir, random, happenings)
    path = spool.finish()
    data = (path / "records.bin").read_bytes()
    end = random.randrange(len(data) + 1) if data else 0
    (path / "records.bin").write_bytes(data[:end])
    kept, cut, bad = kept_of_file(data, end, chunk_bytes)
    lost = check_cut(trace_dir, Expected(surviving(stream, kept)))
    assert lost["bad_chunks"] == bad
    assert lost["records_cut"] == cut


@_SETTINGS
@given(seed=st.integers(0, 1 << 32), happenings=st.integers(1, 300))
def test_of_text_that_was_cut_words_are_missing_and_no_event(
    tmp_path: Path, seed: int, happenings: int
) -> None:
    trace_dir, random = fresh(tmp_path), Random(seed)
    stream = random_stream(random, happenings=happenings)
    spool = SpoolWriter(trace_dir)
    settings_text, *rest = stream
    writer = StreamWriter(spool, 3, lambda at: _NS_PER_PLACE * at)
    write([settings_text], writer)
    least = len(spool.text)
    write(rest, writer, first=False)
    path = spool.finish()
    end = random.randint(least, len(spool.text))
    (path / "text.log").write_bytes(bytes(spool.text[:end]))
    words, over = words_in(bytes(spool.text[:end]))
    expected = Expected(stream)
    columns = ("operator", "top_operator")
    asked = {row[column] for row in expected.allocations for column in columns} - {None}
    for row in expected.allocations:
        row |= {c: row[c] if row[c] in words or row[c] is None else "?" for c in columns}
        row.pop("stage", None)
    finalise(trace_dir)
    places = Places(lambda place: _NS_PER_PLACE * place)
    check_memory(rows(trace_dir, "events"), rows(trace_dir, "allocations"), expected, places)
    (process,) = rows(trace_dir, "processes")
    lost = json.loads(process["lost_events"])
    assert 0 <= lost["text_bytes_cut"] <= len(over)
    assert (lost["text_bytes_cut"] > 0) == any(over)
    assert lost["unknown_text_ids"] > 0 or asked <= words
    assert process["lost_total"] == 0  # of bytes


def words_in(text: bytes) -> tuple[set[str], bytes]:
    """The names that are whole, and what comes after the last whole text."""
    at, words = 0, set()
    while at + 12 <= len(text):
        size, kind, _, _ = struct.unpack_from("<IHHI", text, at)
        if at + 12 + size > len(text):
            break
        if kind == KINDS["name"]:
            words.add(text[at + 12 : at + 12 + size].decode())
        at += 12 + size
    return words, text[at:]


def kept_of_file(data: bytes, end: int, chunk_bytes: int) -> tuple[dict[int, int], int, int]:
    """Whole records by log; whether one is cut, of which something is left; or a chunk's header."""
    kept: dict[int, int] = {}
    starts = range(0, end, chunk_bytes)
    for start in starts:
        log, _ = struct.unpack_from("<IQ", data, start + 4)
        chunk = data[start + _RECORD_BYTES : min(start + chunk_bytes, end)]
        tails = [chunk[at - _TAIL_BYTES : at] for at in range(64, len(chunk) + 1, _RECORD_BYTES)]
        kept[log] = kept.get(log, 0) + sum(any(tail) for tail in tails)
    over = end % chunk_bytes
    if 0 < over < _RECORD_BYTES:
        return {log: n for log, n in kept.items() if n}, 0, 1
    left = data[end - end % _RECORD_BYTES : end]
    return kept, int(over > 0 and any(left)), 0


def check_cut(trace_dir: Path, expected: Expected) -> dict[str, int]:
    """What was lost."""
    finalise(trace_dir)
    places = Places(lambda place: _NS_PER_PLACE * place)
    events, allocations = rows(trace_dir, "events"), rows(trace_dir, "allocations")
    check_memory(events, allocations, expected, places)
    same(rows(trace_dir, "samples"), expected.samples, places)
    check_names(trace_dir, allocations, expected, places)
    known = {(row["thread_id"], row["end_time_ns"]): row for row in rows(trace_dir, "operators")}
    for row in expected.calls:
        ours = known[row["thread_id"], row["end_time_ns"] * _NS_PER_PLACE]
        assert (ours["name"], ours["start_seq"]) == (row["name"], row["start_seq"])
    (process,) = rows(trace_dir, "processes")
    assert process["complete"] is False
    assert process["unmatched_frees"] == expected.unmatched
    lost: dict[str, int] = json.loads(process["lost_events"])
    assert (lost["missing_chunks"], lost["missed_frees"], lost["order_gaps"]) == (0, 0, 0)
    return lost
