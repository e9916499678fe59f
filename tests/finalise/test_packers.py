"""The finaliser takes full windows from the program, and can be gone or stopped at any moment."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import memtrace
from finalise.recorded_spools import finaliser_of
from hazards.measured_runs import check_account
from memtrace import _core
from memtrace.finalise import finalise
from memtrace.finalise.packers import Packers
from native_spool import NativeSpool
from program_runs import plain_environment, processes, wait_for_finaliser

PROGRAM = Path(__file__).resolve().parents[1] / "programs" / "packing" / "busy.py"
WINDOW_BYTES = 4 * 64 * 1024
SEED = random.randrange(1 << 30)  # printed when a test fails

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed"
)


def begin(trace: Path, seconds: float, *words: str, options: tuple[str, ...] = ()) -> Program:
    argv = [sys.executable, "-m", "memtrace", "run", "--quiet", *options, "-o", str(trace)]
    program = subprocess.Popen(
        [*argv, str(PROGRAM), str(seconds), *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=plain_environment(),
    )  # fmt: skip
    assert program.stdout is not None
    assert program.stdout.readline() == b"begins\n"
    return program


Program = subprocess.Popen[bytes]


def spools(trace: Path) -> list[Path]:
    return sorted((trace / "spool").glob("process=*"))


def packed_bytes(spool: Path) -> int:
    return sum(path.stat().st_size for path in spool.glob("packed-*.bin"))


def raw_bytes(spool: Path) -> int:
    return (spool / "records.bin").stat().st_size


def comes_true(condition: Callable[[], bool], limit_s: float = 20.0) -> bool:
    until_s = time.monotonic() + limit_s
    while time.monotonic() < until_s:
        if condition():
            return True
        time.sleep(0.02)
    return False


@needs_torch
def test_a_program_and_its_child(tmp_path: Path) -> None:
    """What they record is packed while they run, and is all there at the end."""
    trace = tmp_path / "t.memtrace"
    program = begin(trace, 4.0, "fork")
    assert comes_true(lambda: len(spools(trace)) == 2)
    assert comes_true(lambda: all(packed_bytes(spool) > WINDOW_BYTES for spool in spools(trace)))
    # Before it was found by the finaliser, and where that is behind, a process appends itself.
    begun = {spool: (packed_bytes(spool), raw_bytes(spool)) for spool in spools(trace)}
    time.sleep(1.0)
    for spool, (packed, raw) in begun.items():
        assert packed_bytes(spool) - packed > WINDOW_BYTES
        assert 5 * (packed_bytes(spool) - packed) > raw_bytes(spool) - raw
    out, errors = program.communicate(timeout=60)
    wait_for_finaliser(trace)
    assert (program.returncode, errors) == (0, b"")
    main, child = processes(trace)
    accounts = dict(zip((child["pid"], main["pid"]), out.splitlines(), strict=True))
    for process in (main, child):
        assert process["lost_total"] == process["unmatched_frees"] == 0
        (folder,) = (trace / "allocations").glob(f"process=*-{process['pid']}-*")
        rows = pq.read_table(folder, columns=["size_bytes", "free_seq"])
        account = json.loads(accounts[process["pid"]])
        for size, made in account["made"].items():
            of_size = rows.filter(pc.equal(rows["size_bytes"], int(size)))
            assert len(of_size) == made
            assert of_size["free_seq"].null_count == account["kept"].count(int(size))


@needs_torch
@pytest.mark.parametrize("and_goes_on", [False, True], ids=["killed", "stopped"])
def test_a_finaliser_that_is_gone_in_the_middle(tmp_path: Path, and_goes_on: bool) -> None:
    """At three moments: the program runs on as fast, and its trace has everything."""
    chance = random.Random(SEED)
    for number in range(3):
        trace = tmp_path / f"{number}.memtrace"
        program = begin(trace, 2.5)
        (spool,) = spools(trace)
        assert comes_true(lambda at=spool: packed_bytes(at) > WINDOW_BYTES), f"seed {SEED}"
        time.sleep(chance.random() * 0.3)
        finaliser = finaliser_of(trace)
        os.kill(finaliser, signal.SIGSTOP if and_goes_on else signal.SIGKILL)
        assert comes_true(lambda at=spool: raw_bytes(at) > 4 * WINDOW_BYTES), f"seed {SEED}"
        if and_goes_on:
            os.kill(finaliser, signal.SIGCONT)
        out, errors = program.communicate(timeout=60)
        assert program.returncode == 0
        if and_goes_on:
            assert errors == b""
            wait_for_finaliser(trace)
        else:
            assert b"memtrace recover" in errors
            finalise(trace)
        check_account(out, trace)


@needs_torch
def test_a_program_that_is_killed(tmp_path: Path) -> None:
    """The finaliser sees to what was handed over when there is nobody any more to take it back."""
    trace = tmp_path / "t.memtrace"
    program = begin(trace, 60.0)
    (spool,) = spools(trace)
    assert comes_true(lambda: packed_bytes(spool) > WINDOW_BYTES)
    program.kill()
    program.communicate(timeout=60)
    wait_for_finaliser(trace)
    (process,) = processes(trace)
    assert not process["complete"]
    assert process["lost_total"] == process["unmatched_frees"] == 0
    assert process["events"] > 2 * WINDOW_BYTES // 64


@needs_torch
def test_within_a_limit_nothing_is_handed_over(tmp_path: Path) -> None:
    trace = tmp_path / "t.memtrace"
    program = begin(trace, 3.0, options=("--max-disk", "4GiB"))
    (spool,) = spools(trace)
    assert comes_true(lambda: raw_bytes(spool) > 4 * WINDOW_BYTES)
    handed = (spool / "handover.bin").read_bytes()
    assert not any(handed[8:])
    out, _ = program.communicate(timeout=60)
    wait_for_finaliser(trace)
    check_account(out, trace)


def filled(trace: Path, key: str, *, windows: int) -> NativeSpool:
    """A recording of this process that has filled so many windows."""
    spool = NativeSpool(trace, key)
    spool.process(devices=[{"index": None, "kind": "cpu", "name": "cpu"}])
    spool.log()
    fill(spool, windows)
    return spool


def fill(spool: NativeSpool, windows: int) -> None:
    if len(spool._logs) == 1:
        spool.log(1)
    thread = spool._logs[1]
    for pair in range(windows * WINDOW_BYTES // 64 // 2):
        thread.alloc(spool.recorder.ticks(), 0x1000 + 64 * (pair % 999), 64)
        thread.free(spool.recorder.ticks(), 0x1000 + 64 * (pair % 999))


def test_so_many_at_once_and_each_is_let_go_when_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memtrace.finalise.packers._MOST_AT_ONCE", 2)
    monkeypatch.setattr("memtrace.finalise.packers._PERIOD_S", 0.01)
    pid = os.getpid()
    recordings = [filled(tmp_path, f"host-{pid}-{number}", windows=1) for number in (1, 2, 3)]
    packers = Packers(tmp_path)
    packers.start()

    def packed() -> list[bool]:
        for recording in recordings:
            fill(recording, 1)
        return [packed_bytes(recording.path) > 0 for recording in recordings]

    assert comes_true(lambda: packed()[:2] == [True, True])
    time.sleep(0.1)
    assert packed() == [True, True, False]
    recordings[0].finish()
    third = recordings.pop()
    assert comes_true(lambda: (fill(third, 1), packed_bytes(third.path) > 0)[1])
    before = threading.active_count()
    packers.stop()
    assert threading.active_count() < before
    assert not any(thread.name.startswith("memtrace-pack") for thread in threading.enumerate())
    third.finish()
    recordings[1].finish()


def test_where_there_may_be_no_more_threads_the_program_does_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memtrace.finalise.packers._PERIOD_S", 0.01)
    start, refused = threading.Thread.start, {"memtrace-packers": 1, "memtrace-pack-": 3}

    def refuse(thread: threading.Thread) -> None:
        for name, times in refused.items():
            if thread.name.startswith(name) and times > 0:
                refused[name] -= 1
                raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    recording = filled(tmp_path, f"host-{os.getpid()}-1", windows=1)
    packers = Packers(tmp_path)
    packers.start()
    packers.stop()
    packers.start()  # and the second time there is one
    assert comes_true(lambda: (fill(recording, 1), packed_bytes(recording.path) > 0)[1])
    packers.stop()
    assert set(refused.values()) == {0}
    recording.finish()


def test_who_converts_waits_for_a_window_in_hand(tmp_path: Path) -> None:
    spool = filled(tmp_path, "host-1-start", windows=3)
    path = spool.finish()
    in_hand = os.open(path / "windows.bin", os.O_RDONLY)
    fcntl.flock(in_hand, fcntl.LOCK_EX)
    converter = threading.Thread(target=finalise, args=(tmp_path,))
    converter.start()
    converter.join(0.5)
    assert converter.is_alive()
    assert path.exists()
    os.close(in_hand)
    converter.join(60)
    assert not path.exists()
    assert len(memtrace.open(tmp_path).events) == 3 * WINDOW_BYTES // 64


@pytest.mark.parametrize("missing", ["handover.bin", "windows.bin", "control.bin"])
def test_a_spool_that_cannot_be_packed_is_refused_in_one_line(tmp_path: Path, missing: str) -> None:
    spool = filled(tmp_path, "host-1-start", windows=1)
    (spool.path / missing).unlink()
    with pytest.raises(_core.SpoolError, match=f"{missing}"):
        _core.WindowPacker(spool.path)
    spool.finish()
