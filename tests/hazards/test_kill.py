"""SIGKILL at random moments: every trace opens by itself and has all that the program knew of."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

import memtrace
from memtrace import _core

PROGRAMS = Path(__file__).resolve().parent.parent / "programs" / "hazards"
WORD_BYTES = 4
NOISE_BYTES = 1 << 20
SEED = random.randrange(1 << 30)  # printed when a test fails
needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed"
)


def check(trace_dir: Path, said: int) -> int:
    """Everything up to number `said` is there and every name resolves; how many there are."""
    trace = memtrace.open(trace_dir)
    events, allocations = trace.events, trace.allocations
    (process,) = trace.processes.to_pylist()
    assert process["lost_total"] == 0, process["lost_events"]
    assert process["unmatched_frees"] == 0
    assert not process["complete"]
    assert events["seq"].to_pylist() == list(range(len(events)))
    counted = allocations.filter(
        pc.and_(
            pc.less(allocations["size_bytes"], NOISE_BYTES // 4),
            pc.equal(allocations["top_operator"], "aten::empty"),
        )
    )
    numbers = sorted(
        row["size_bytes"]
        for row in counted.to_pylist()
        if row["source"].endswith(" count") and row["thread_id"] is not None
    )
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= said, f"{said} said, {len(numbers)} recorded"
    # The 1 in `tensor + 1` becomes a tensor before any operator runs.
    nameless = allocations.filter(pc.is_null(allocations["operator"]))
    assert set(nameless["size_bytes"].to_pylist()) <= {4, 8}
    for table, columns in (
        (allocations, ("source",)),
        (allocations.filter(pc.is_valid(allocations["operator"])), ("operator", "top_operator")),
        # Of a call that the kill cut off only the bytes are known.
        (trace.operators.filter(pc.is_valid(trace.operators["end_time_ns"])), ("name",)),
        (trace.stacks, ("function", "file")),
    ):
        for column in columns:
            assert table[column].null_count == 0, column
            values = table[column].unique().to_pylist()
            assert not [v for v in values if not v or v == "?" or "?:" in v], (column, values)
    calls = {*trace.operators["call_id"].to_pylist(), None}
    assert set(trace.operators["parent_call_id"].to_pylist()) <= calls
    assert set(events["operator_call_id"].to_pylist()) <= calls
    known = set(trace.stacks["stack_id"].to_pylist())
    assert set(allocations["stack_id"].to_pylist()) <= known
    assert not list(trace_dir.glob("spool/process=*"))  # recovered in place
    return len(numbers)


@needs_torch
def test_a_hundred_random_moments(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAMS / "killed_forks.py"), str(tmp_path), "100", str(SEED)],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout)
    assert len(found) == 100
    said_something = 0
    for trace, said in found:
        path = Path(trace)
        if said == 0 and not list(path.glob("spool/process=*/text.log")):
            continue  # killed before there was a recording
        said_something += said > 0
        try:
            check(path, said)
        except Exception as error:
            raise AssertionError(f"{path.name}, seed {SEED}") from error
    assert said_something > 40  # else the moments are badly chosen


@needs_torch
@pytest.mark.parametrize("number", range(3))
def test_a_program_under_run(number: int, tmp_path: Path) -> None:
    trace = tmp_path / "t.memtrace"
    reader, writer = os.pipe()
    argv = [sys.executable, "-m", "memtrace", "run", "--quiet", "-o", str(trace)]
    program = subprocess.Popen(
        [*argv, str(PROGRAMS / "counting.py"), str(writer)],
        pass_fds=[writer], stderr=subprocess.PIPE,
    )  # fmt: skip
    os.close(writer)
    said_bytes = len(os.read(reader, 1 << 16))
    end_s = time.monotonic() + random.Random(SEED + number).random()
    while (left_s := end_s - time.monotonic()) > 0:
        if select.select([reader], [], [], left_s)[0]:
            said_bytes += len(os.read(reader, 1 << 16))
    os.kill(program.pid, signal.SIGKILL)
    while piece := os.read(reader, 1 << 16):
        said_bytes += len(piece)
    os.close(reader)
    _, errors = program.communicate(timeout=60)  # the finaliser's end, too
    assert program.returncode == -signal.SIGKILL
    assert errors == b""
    assert check(trace, said_bytes // WORD_BYTES) >= said_bytes // WORD_BYTES


def read_spool(spool: Path) -> dict[str, Any]:
    """All of a spool, converted: the events' sizes and the totals."""
    reader = _core.SpoolReader(str(spool))
    conversion = _core.Conversion(reader)
    sizes: list[int] = []
    marks = 0
    while not conversion.finished:
        for batch in conversion.advance():
            columns = {column.name: column for column in batch.columns}
            if batch.dataset == "events":
                sizes += columns["size_bytes"].values.tolist()
            marks += batch.rows if batch.dataset == "marks" else 0
    odd = {**reader.control["lost"], **reader.damage(), **conversion.totals()["oddities"]}
    return {"sizes": sizes, "marks": marks, "odd": {k: v for k, v in odd.items() if v}}


def write_until_killed(spool: Path, fd: int, start: int) -> None:
    """Records event N, with a name and a mark of its own, and then says so. Never returns."""
    recorder = _core.Recorder(str(spool))
    number = start
    while True:
        number += 1
        recorder.event(
            _core.ACTION_preexisting, device=0, address=number * 64, size_bytes=number,
            memory_or_pool=_core.MEMORY_host,
        )  # fmt: skip
        if number % 50 == 0:
            recorder.note(_core.ACTION_mark, name="settings", text=f"text {number}")
        os.write(fd, b"n")


def test_the_recorder_alone_at_two_hundred_moments(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    total = 0
    for number in range(200):
        spool = tmp_path / str(number)
        spool.mkdir()
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                write_until_killed(spool, writer, 0)
            finally:
                os._exit(1)
        os.close(writer)
        # Around the moments at which windows of 1023 records become full.
        wanted = chance.choice((1, 1020, 1024, 2040, 2050, 3068, chance.randrange(1, 6000)))
        said = 0
        while said < wanted:
            piece = os.read(reader, wanted - said)
            assert piece, "the writer failed"
            said += len(piece)
        time.sleep(chance.random() * 0.0005)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        while piece := os.read(reader, 1 << 16):
            said += len(piece)
        os.close(reader)
        found = read_spool(spool)
        assert found["sizes"] == list(range(1, len(found["sizes"]) + 1)), f"{number}, seed {SEED}"
        assert len(found["sizes"]) >= said
        assert found["marks"] >= said // 50
        assert found["odd"] == {}
        total += said
    assert total > 100_000
