"""The whole file: processes, clocks, what is said of it, and any program."""

from __future__ import annotations

import gzip
import io
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memtrace.export.perfetto import write_perfetto
from memtrace.output_file import output_file
from memtrace.outputs import Selection, find_output
from memtrace.trace import Trace, open_trace
from perfetto_agreement import check_agreement, check_nesting
from perfetto_reader import COUNTER, exported
from random_programs import PROGRAMS, recorded
from trace_builder import (
    ORIGIN_NS,
    ORIGIN_UNIX_NS,
    TraceBuilder,
    failing_trace,
    serving_trace,
)


@pytest.fixture
def serving(tmp_path: Path) -> Trace:
    return open_trace(serving_trace(tmp_path / "serve.memtrace"))


@pytest.mark.parametrize("make", [serving_trace, failing_trace])
def test_the_file_agrees_with_the_trace(tmp_path: Path, make: Any) -> None:
    trace = open_trace(make(tmp_path / "x.memtrace"))
    check_agreement(trace, exported(trace))


@settings(max_examples=25, deadline=None)
@given(PROGRAMS, st.integers(1, 9))
def test_the_file_of_any_program_agrees_with_its_trace(
    program: list[tuple[str, str, int]], rows_per_group: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        trace = recorded(Path(folder) / "x.memtrace", program, rows_per_group)
        check_agreement(trace, exported(trace))


@settings(max_examples=25, deadline=None)
@given(PROGRAMS, st.integers(0, 60_000), st.integers(0, 60_000))
def test_a_window_of_any_program_is_a_part_of_the_whole(
    program: list[tuple[str, str, int]], start: int, length: int
) -> None:
    window = (start, start + length)
    with tempfile.TemporaryDirectory() as folder:
        trace = recorded(Path(folder) / "x.memtrace", program, 4)
        whole, part = exported(trace), exported(trace, Selection(window_ns=window))
    first, last = (ORIGIN_NS + time for time in window)
    for packet in part.packets:
        assert not packet.timestamp or first <= packet.timestamp <= last
    for name, values in whole.counters.items():
        before = [value for time, value in values if time < first]
        inside = {time for time, _ in values if first <= time <= last}
        shown = part.counters[name]
        assert all(standing(shown, time) == standing(values, time) for time in inside)
        if shown and before:
            assert standing(shown, first) == standing(values, first)
    for name, instants in whole.instants.items():
        if "peaks" not in name:
            expected = [i.weight for i in instants if first <= i.time_ns <= last]
            assert [i.weight for i in part.instants[name]] == expected
    assert all(len(begins) == len(ends) == 1 for begins, ends in part.flows.values())
    for name, heap in part.heaps.items():
        device = name.split(",")[0].replace(" ", ":")
        held = sum(size_bytes for size_bytes, _ in heap.samples.values())
        assert held == max(value for _, value in part.counters[f"{device} allocated"])


@pytest.mark.parametrize("window", [(0, 0), (2**61, 2**62), (2**70, 2**71)])
def test_a_window_in_which_nothing_happens(serving: Trace, window: tuple[int, int]) -> None:
    parsed = exported(serving, Selection(window_ns=window))
    assert not any(parsed.slices.values())
    assert not any(parsed.instants[f"{of} allocations"] for of in serving.devices)
    assert all(len(values) == 1 for values in parsed.counters.values())
    values = {name: values[-1][1] for name, values in exported(serving).counters.items()}
    for name, ((_, value),) in parsed.counters.items():
        assert value == (values[name] if window[0] else 0)


def standing(counter: list[tuple[int, int]], time_ns: int) -> int:
    """What a counter is after all that happened up to an instant."""
    return [value for time, value in counter if time <= time_ns][-1]


def test_process_and_clock(serving: Trace) -> None:
    parsed = exported(serving)
    (process,) = [t for t in parsed.tracks.values() if t.HasField("process")]
    assert process.process.pid == 100
    assert list(process.process.cmdline) == ["serve.py", "--requests", "3"]
    assert process.process.process_name == "serve.py --requests 3"
    assert parsed.clocks == {6: ORIGIN_NS, 3: ORIGIN_NS, 4: ORIGIN_NS, 1: ORIGIN_UNIX_NS}
    assert parsed.packets[0].HasField("clock_snapshot"), "before what needs it"


def test_every_process_has_tracks_of_its_own(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    for rank in range(3):
        process = builder.process(100 + rank, rank=rank)
        with process.stage("s"):
            process.alloc("cuda:0", 512 * (rank + 1))
    builder.process(110, rank=3)  # allocated nothing
    parsed = exported(open_trace(builder.write()))
    assert sorted(v for _, v in parsed.counters["cuda:0 allocated"]) == [512, 1024, 1536]
    sequences = defaultdict(set)
    for packet in parsed.packets:
        if packet.track_event.type == COUNTER:
            sequences[packet.trusted_packet_sequence_id].add(packet.track_event.counter_value)
    assert len(sequences) == 3 * 4, "allocated, active, reserved, a category"
    assert all(len(values) == 1 for values in sequences.values())
    names = [t.process.process_name for t in parsed.tracks.values() if t.HasField("process")]
    assert names == [f"rank {rank}: serve.py --requests 3" for rank in range(4)]


def test_processes_of_two_machines_are_put_side_by_side(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    builder.process(100).alloc("cpu", 10)
    other = builder.process(
        101, host="other", clock_origin_ns=ORIGIN_NS + 5, clock_origin_unix_ns=ORIGIN_UNIX_NS + 7000
    )
    other.alloc("cpu", 20)
    parsed = exported(open_trace(builder.write()))
    times = {value: time - ORIGIN_NS for time, value in parsed.counters["cpu allocated"]}
    assert times == {10: 1000, 20: 1000 + 7000}


def test_what_is_said_of_the_file(serving: Trace) -> None:
    parsed = exported(serving, Selection("cuda:0", window_ns=(0, 10**9)))
    assert parsed.attributes == {
        "memtrace.trace": "serve.memtrace",
        "memtrace.flows": "flows: each of 6 allocations leads to its free",
        "memtrace.weights": "bytes",
        "memtrace.device": "cuda:0",
        "memtrace.window_ns": "[0, 1000000000]",
    }
    assert parsed.notes == []


def test_a_note_when_there_is_more_than_the_ui_opens(
    serving: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = serving.allocations.num_rows
    monkeypatch.setattr("memtrace.export.perfetto.MOST_PAIRS", count)
    assert exported(serving).notes == []
    told = f"{count} allocations, 0 MiB of packets: ui.perfetto.dev may run out of memory; "
    told += "give --window A,B for a part"
    monkeypatch.setattr("memtrace.export.perfetto.MOST_PAIRS", count - 1)
    assert exported(serving).notes == [told]
    assert exported(serving, Selection("cpu")).notes == []
    monkeypatch.setattr("memtrace.export.perfetto.MOST_PAIRS", count)
    monkeypatch.setattr("memtrace.export.perfetto.MOST_BYTES", 5000)
    assert exported(serving).notes == [told]
    assert exported(serving, Selection(window_ns=(0, 1))).notes == []


ODD = ["\udc80\ud800", "a\0b", "n" * 10_000, "🜁\u202e\n\t", "", "<script>", "a.b..c.", "."]


@pytest.mark.parametrize("word", ODD)
def test_names_of_any_letters(tmp_path: Path, word: str) -> None:
    safe = word.encode("utf-8", "replace").decode()  # as a Parquet file has it
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process(argv=f'["{safe}"]' if safe.isprintable() else "[]")
    process.stack(1, (safe, safe, 3))
    process.rows["stacks"][0]["module"] = safe
    told = {"module": safe, "operator": safe, "category": safe, "label": safe, "source": safe}
    with process.stage(safe), process.step(root_module=safe, kind=safe, input_shapes=safe):
        with process.call(safe, module=safe):
            rows = [process.alloc("cuda:0", 512, stack_id=1, **told)]
            rows.append(process.alloc("cuda:0", 512, phase=safe, **told))
        process.free(rows[0])
    parsed = exported(open_trace(builder.write()))
    (call,) = parsed.slices["operators of thread 1"]
    instants = parsed.instants["cuda:0 allocations"]
    assert [i.name for i in instants] == [safe or "(no operator)"] * 2 or word == ""
    if word:
        assert call.name == safe
        assert instants[0].stack == ((safe, safe, 3),)
        assert instants[0].told["module"] == safe
    for track, slices in parsed.slices.items():
        check_nesting(track, slices)


def test_words_that_no_file_can_hold_are_replaced() -> None:
    import numpy as np
    import pyarrow as pa

    from memtrace.export.perfetto.packets import Words

    words = Words(2)
    ids = words.ids(pa.chunked_array([pa.array(["a", None, "b"]), pa.array(["b"])]), missing="?")
    assert ids.tolist() == [2, 1, 3, 3]
    assert b"?" in words.entry(words.id_of("\udc80"))
    assert words.ids(pa.chunked_array([], pa.string())).dtype == np.int64
    assert words.ids(pa.chunked_array([pa.nulls(2, pa.string())])).tolist() == [0, 0]


def test_gz_by_suffix(tmp_path: Path, serving: Trace) -> None:
    plain = io.BytesIO()
    write_perfetto(serving, Selection(), plain)
    with output_file(tmp_path / "x.gz", force=False) as out:
        find_output("perfetto").load()(serving, Selection(), out)
    assert gzip.decompress((tmp_path / "x.gz").read_bytes()) == plain.getvalue()
