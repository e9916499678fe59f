"""Damaged spools: cut anywhere, or full of noise, they are read or refused, never a crash."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random

import pyarrow.parquet as pq
import pytest

from memtrace import _core
from memtrace.errors import MemtraceError
from memtrace.finalise import finalise
from memtrace.finalise.parquet import to_table
from spool_writer import SpoolWriter

MIB = 1 << 20
FILES = ("control.bin", "records.bin", "windows.bin", "text.log")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spool with something of everything, in chunks of a few records."""
    trace_dir = tmp_path_factory.mktemp("sound") / "t.memtrace"
    spool = SpoolWriter(trace_dir, chunk_bytes=64 * 9)
    spool.process(host="h", devices=[{"device": "cuda:0", "total_bytes": 1 << 30}])
    root = spool.module("Net", path="")
    stack = spool.stack([("forward", "/home/u/model.py", 7, root)])
    log, other = spool.log(), spool.log()
    log.mark(1, "settings", text='{"expandable_segments": true}')
    log.event("segment_map", 2, 1 << 40, 2 * MIB, device=0, order=1)
    for i in range(20):
        address = (1 << 40) + 512 * i
        log.alloc(10 + 10 * i, address, 100, device=0, order=2 + i, stack=stack, call=i + 1,
                  op="aten::mm")  # fmt: skip
        log.span(9 + 10 * i, 11 + 10 * i, i + 1, "aten::mm", stack=stack)
        other.alloc(12 + 10 * i, 0x1000 * (i + 1), 64)
        other.free(13 + 10 * i, 0x1000 * (i + 1))
    log.sample(500, "allocated_bytes.current", 20 * 512, target="cuda:0")
    log.note("stage_begin", 501, "load", value=1, text="auto")
    spool.tensor(address=1 << 40, device="cuda:0", ticks=400, name="w", kind="weight", shape=[1])
    return spool.finish(last_chunks_in_windows=True)


def copy_of(sound: Path, tmp_path: Path) -> tuple[Path, Path]:
    trace_dir = tmp_path / "t.memtrace"
    shutil.rmtree(trace_dir, ignore_errors=True)
    spool = trace_dir / "spool" / sound.name
    shutil.copytree(sound, spool)
    return trace_dir, spool


def convert_or_refuse(spool: Path) -> int | None:
    """The native half alone (no Parquet): the number of events, or None when it was refused."""
    try:
        conversion = _core.Conversion(_core.SpoolReader(str(spool)))
    except _core.SpoolError as refusal:
        _is_one_line(refusal)
        return None
    while not conversion.finished:
        for batch in conversion.advance():
            assert to_table(batch.dataset, list(batch.columns)).num_rows == batch.rows
    return int(conversion.totals()["events"])


def _is_one_line(error: Exception) -> None:
    assert str(error)
    assert "\n" not in str(error)


def finalise_or_refuse(trace_dir: Path) -> int | None:
    """The number of events, or None when the spool was refused with one line."""
    try:
        result = finalise(trace_dir)
    except MemtraceError as refusal:
        _is_one_line(refusal)
        return None
    for name in ("events", "allocations", "operators", "stacks", "processes"):
        pq.read_table(trace_dir / name)
    return result.events


def test_the_sound_one_is_whole(sound: Path, tmp_path: Path) -> None:
    trace_dir, _ = copy_of(sound, tmp_path)
    assert finalise_or_refuse(trace_dir) == 61
    (row,) = pq.read_table(trace_dir / "processes").to_pylist()
    assert sum(json.loads(row["lost_events"]).values()) == 0
    assert row["reconciled"] is True


@pytest.mark.parametrize("name", FILES)
def test_cut_at_any_byte(sound: Path, tmp_path: Path, name: str) -> None:
    data = (sound / name).read_bytes()
    # Every byte of the beginning, where headers lie, and every few of the rest.
    lengths = sorted({*range(min(len(data), 260)), *range(0, len(data), 61)})
    trace_dir, spool = copy_of(sound, tmp_path)
    last = 0
    for length in lengths:
        (spool / name).write_bytes(data[:length])
        events = convert_or_refuse(spool)
        if name == "control.bin":
            continue
        assert events is not None
        if name == "records.bin":
            assert events >= last  # what is whole is kept
            last = events
    finalise_or_refuse(trace_dir)  # and to the end, with the last of them


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file(sound: Path, tmp_path: Path, name: str) -> None:
    trace_dir, spool = copy_of(sound, tmp_path)
    (spool / name).unlink()
    events = finalise_or_refuse(trace_dir)
    assert (events is not None) == (name == "windows.bin")


@pytest.mark.parametrize("seed", range(200))
def test_noise_anywhere(sound: Path, tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    trace_dir, spool = copy_of(sound, tmp_path)
    path = spool / random.choice(FILES[1:])
    data = bytearray(path.read_bytes())
    for _ in range(random.choice([1, 5, 50, 500])):
        at = random.randrange(len(data))
        for i in range(at, min(len(data), at + random.choice([1, 4, 8, 64]))):
            data[i] = random.choice([0, 1, 0xFF, random.randrange(256)])
    path.write_bytes(bytes(data))
    assert convert_or_refuse(spool) is not None
    if seed % 20 == 0:
        assert finalise_or_refuse(trace_dir) is not None


@pytest.mark.parametrize("seed", range(100))
def test_records_of_pure_noise(sound: Path, tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    trace_dir, spool = copy_of(sound, tmp_path)
    data = bytearray((spool / "records.bin").read_bytes())
    for at in range(0, len(data), 64):
        if at % (64 * 9) == 0:
            continue  # the chunks' headers stay
        data[at : at + 64] = random.randbytes(64)
        data[at + 63] = random.choice([1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 32, 33, 34, 35, 37, 99])
        data[at + 62] = random.choice([0, 1, 2, 200])
        if random.random() < 0.7:  # plausible numbers reach deeper
            data[at + 8 : at + 16] = (random.randrange(1, 1 << 16) << 9).to_bytes(8, "little")
            data[at + 16 : at + 24] = random.randrange(1 << 22).to_bytes(8, "little")
            data[at + 56 : at + 60] = random.randrange(1, 4).to_bytes(4, "little")
    (spool / "records.bin").write_bytes(bytes(data))
    assert convert_or_refuse(spool) is not None
    if seed % 20 == 0:
        assert finalise_or_refuse(trace_dir) is not None
