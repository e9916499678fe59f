"""Spools that nobody finalised: what may be touched, from where, and what is left behind."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from memtrace import _core
from memtrace.cli import main
from memtrace.errors import MemtraceError
from memtrace.finalise import recover
from memtrace.run.output import MARKER, create_trace
from memtrace.trace import open_trace
from spool_writer import SpoolWriter, Writer

ELSEWHERE = Writer(host="far", boot_id="another", pid_namespace=1)


@pytest.fixture
def trace_dir(tmp_path: Path) -> Path:
    path = tmp_path / "t.memtrace"
    path.mkdir()
    (path / MARKER).write_text('{"memtrace_trace":true,"format_version":1}\n')
    return path


def spool_of(
    trace_dir: Path, writer: Writer | None = None, *, number: int = 1, killed: bool = True
) -> Path:
    ended = {"end": None, "exit_status": None} if killed else {}
    spool = SpoolWriter(trace_dir, f"box-{number}-a", writer=writer, **ended)  # type: ignore[arg-type]
    spool.process(host=(writer or Writer()).host)
    log = spool.log()
    log.alloc(10, 0x1000, 512)
    log.free(20, 0x1000)
    return spool.finish(last_chunks_in_windows=True)


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def test_what_may_still_run_is_read_and_not_touched(
    trace_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spool_of(trace_dir, ELSEWHERE)
    before = contents(trace_dir)
    trace = open_trace(trace_dir)
    assert len(trace.events) == 2
    (row,) = trace.processes.to_pylist()
    assert (row["complete"], row["end_reason"]) == (False, "unknown")
    assert capsys.readouterr().err == (
        "memtrace: process 1 of host far may still run; shown is what was recorded until now. "
        f"Once ended, to finish the trace: python -m memtrace recover --force {trace_dir}\n"
    )
    assert main(["summary", str(trace_dir)]) == 0
    assert "how the process ended is not known" in capsys.readouterr().out
    assert contents(trace_dir) == before


def test_several_that_may_still_run_are_one_line(
    trace_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2):
        spool_of(trace_dir, ELSEWHERE, number=number)
    spool_of(trace_dir, number=3)  # this one is known to have ended
    assert len(open_trace(trace_dir).process_list) == 3
    finished, unsure = capsys.readouterr().err.splitlines()
    assert finished.startswith("memtrace: finished the records of process 3")
    assert unsure.startswith("memtrace: 2 processes of host far may still run")
    assert [path.name for path in (trace_dir / "processes").iterdir()] == ["process=box-3-a"]


def test_recover_asks_for_force_where_it_cannot_tell(
    trace_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spool_of(trace_dir, ELSEWHERE)
    before = contents(trace_dir)
    assert main(["recover", str(trace_dir)]) == 1
    assert capsys.readouterr().err == (
        f"memtrace: {trace_dir} was recorded on host far; cannot tell from here whether it still "
        f"runs: if it has ended, python -m memtrace recover --force {trace_dir}\n"
    )
    assert contents(trace_dir) == before
    assert main(["recover", "--force", str(trace_dir)]) == 0
    assert capsys.readouterr().out == f"{trace_dir}: 1 recovered\n"
    assert not (trace_dir / "spool").exists()
    assert pq.read_table(trace_dir / "events").num_rows == 2


def test_a_complete_recording_needs_no_force(trace_dir: Path) -> None:
    spool_of(trace_dir, ELSEWHERE, killed=False)
    assert recover(trace_dir).keys == ("box-1-a",)


def test_no_force_takes_what_is_known_to_run(trace_dir: Path) -> None:
    spool = trace_dir / "spool" / f"process=box-{os.getpid()}-a"
    spool.mkdir(parents=True)
    recorder = _core.Recorder(str(spool))
    assert recover(trace_dir, force=True).running == (f"box-{os.getpid()}-a",)
    with pytest.raises(MemtraceError, match=f"is being recorded by process {os.getpid()}"):
        create_trace(str(trace_dir), "unused", force=True)
    recorder.close()
    assert recover(trace_dir).keys == (f"box-{os.getpid()}-a",)


def test_a_new_recording_does_not_replace_what_may_still_run(trace_dir: Path) -> None:
    spool_of(trace_dir, ELSEWHERE)
    before = contents(trace_dir)
    with pytest.raises(MemtraceError, match="may still be recorded by process 1 of another"):
        create_trace(str(trace_dir), "unused", force=True)
    assert contents(trace_dir) == before
    recover(trace_dir, force=True)
    create_trace(str(trace_dir), "unused", force=True)
    assert not (trace_dir / "events").exists()


def test_a_process_that_is_about_to_record_is_left_alone(trace_dir: Path) -> None:
    spool = trace_dir / "spool" / f"process=box-{os.getpid()}-a"
    spool.mkdir(parents=True)
    result = recover(trace_dir)
    assert (result.running, result.refused) == ((f"box-{os.getpid()}-a",), ())
    assert spool.exists()


def test_a_trace_that_cannot_be_written_is_not_recovered(
    trace_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spool_of(trace_dir)
    before = contents(trace_dir)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "spool")
    assert main(["recover", str(trace_dir)]) == 1
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"memtrace: cannot write {trace_dir}/spool: permission denied\n")
    assert main(["summary", str(trace_dir)]) == 0  # whoever only reads does so elsewhere
    assert contents(trace_dir) == before


@pytest.mark.parametrize("command", ["recover", "summary"])
def test_a_bar_is_shown_on_a_terminal(
    trace_dir: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool_of(trace_dir)
    bars: list[str] = []

    class Bar:
        def __init__(self, what: str, total: float) -> None:
            bars.append(what)
            assert total > 0

        def advance(self, steps: float) -> None:
            pass

        def close(self) -> None:
            pass

    monkeypatch.setattr("memtrace.progress._Bar", Bar)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert main([command, str(trace_dir)]) == 0
    assert bars == ["writing the trace"]


def test_nothing_of_a_killed_finaliser_is_left(trace_dir: Path, tmp_path: Path) -> None:
    spool = spool_of(trace_dir)
    for name in ("end.fifo", "done.fifo"):
        os.mkfifo(spool.parent / name)
    shutil.copytree(spool, spool.parent / ".done-process=box-9-a")
    half = trace_dir / ".finalising-box-1-a"
    (half / "events").mkdir(parents=True)
    recover(trace_dir)
    assert not (trace_dir / "spool").exists()
    assert not half.exists()
    shutil.copytree(trace_dir, tmp_path / "copy")


def test_fifos_of_a_trace_whose_tables_are_whole(
    trace_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spool = spool_of(trace_dir)
    recover(trace_dir)
    spool.parent.mkdir()
    fifo = spool.parent / "end.fifo"
    os.mkfifo(fifo)
    finaliser = os.open(fifo, os.O_RDWR)  # one that is still at work
    assert main(["recover", str(trace_dir)]) == 0
    assert fifo.exists()
    os.close(finaliser)
    assert main(["recover", str(trace_dir)]) == 0
    assert not (trace_dir / "spool").exists()
    assert "nothing to recover" in capsys.readouterr().out


def test_what_a_killed_finaliser_left_is_replaced_by_force(trace_dir: Path) -> None:
    (trace_dir / ".finalising-box-1-a" / "events").mkdir(parents=True)
    create_trace(str(trace_dir), "unused", force=True)
    assert sorted(path.name for path in trace_dir.iterdir()) == [MARKER, "spool"]


def test_what_is_still_recorded_is_one_line(
    trace_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spool = trace_dir / "spool" / f"process=box-{os.getpid()}-a"
    spool.mkdir(parents=True)
    recorder = _core.Recorder(str(spool))
    assert main(["summary", str(trace_dir)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "still running: open it when they have ended" in line
    recorder.close()
