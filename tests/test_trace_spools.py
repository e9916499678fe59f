"""Opening a trace whose spools nobody has finalised: what the reader and the rows say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from memtrace.cli import main
from memtrace.errors import MemtraceError
from memtrace.finalise.processes import process_table
from memtrace.finalise.spools import Spool
from memtrace.trace import open_trace
from spool_writer import SpoolWriter


def spool_of(trace_dir: Path, pid: int = 7, *, in_order: bool = True) -> SpoolWriter:
    end = {} if in_order else {"end": None, "exit_status": None}
    spool = SpoolWriter(trace_dir, f"box-{pid}-a", pid=999_999_000 + pid, **end)  # type: ignore[arg-type]
    log = spool.log()
    log.alloc(10, 0x1000, 512)
    log.free(20, 0x1000)
    return spool


@pytest.fixture
def trace_dir(tmp_path: Path) -> Path:
    return tmp_path / "t.memtrace"


@pytest.mark.parametrize("in_order", [True, False])
def test_only_a_process_that_was_cut_off_is_said_to_be(
    trace_dir: Path, in_order: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    spool = spool_of(trace_dir, in_order=in_order)
    if in_order:
        spool.process(end_reason="exit")
    spool.finish()
    (row,) = open_trace(trace_dir).processes.to_pylist()
    how = "" if in_order else ", which did not end in order"
    assert capsys.readouterr().err == f"memtrace: finished the records of process 7{how}\n"
    expected = (True, "exit", 0) if in_order else (False, "killed", None)
    assert (row["complete"], row["end_reason"], row["exit_status"]) == expected
    assert main(["summary", str(trace_dir)]) == 0
    assert ("did not end in order" in capsys.readouterr().out) is not in_order


@pytest.mark.parametrize("noted", [None, 1])
def test_children_that_were_not_recorded_are_counted_by_whoever_finalises(
    trace_dir: Path, noted: int | None
) -> None:
    spool = spool_of(trace_dir)
    spool.process(start_method="main", unrecorded_children=noted)
    spool.finish()
    marks = trace_dir / "spool" / "unrecorded"
    marks.mkdir()
    for pid in (5, 6):
        (marks / str(pid)).write_text("python -I")
    (row,) = open_trace(trace_dir).processes.to_pylist()
    assert row["unrecorded_children"] == (2 if noted is None else noted)
    assert not (trace_dir / "spool").exists()


def damage(spool: Path) -> None:
    (spool / "control.bin").write_bytes(b"short")


def test_a_damaged_spool_is_left_out(trace_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spool_of(trace_dir, 7).finish()
    damage(spool_of(trace_dir, 8).finish())
    for _ in range(2):  # also when there is nothing left to convert
        trace = open_trace(trace_dir)
        assert [process.pid for process in trace.process_list] == [999_999_007]
        assert trace.running == ()
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.endswith(
            "process=box-8-a/control.bin is cut short (5 bytes): this process is left out"
        )
    assert main(["summary", str(trace_dir)]) == 0


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("of\nours"), "KeyError: 'of\\nours'; the recording is kept there"),
        (ValueError("of\nours"), "ValueError: of ours; the recording is kept there"),
        (OSError(28, "no room"), "No space left on device; the recording is kept in "),
    ],
)
def test_what_cannot_be_converted_keeps_no_other_process_from_it(
    trace_dir: Path,
    error: Exception,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bad, good = spool_of(trace_dir, 7).finish(), spool_of(trace_dir, 8).finish()

    def table(spool: Spool, *more: Any) -> pa.Table:
        if spool.path == bad:
            raise error
        return process_table(spool, *more)

    monkeypatch.setattr("memtrace.finalise.convert.process_table", table)
    assert [process.pid for process in open_trace(trace_dir).process_list] == [999_999_008]
    finished, left = capsys.readouterr().err.splitlines()
    assert finished.startswith("memtrace: finished the records of process 8")
    assert said in left
    assert str(bad) in left
    assert left.endswith(": this process is left out")
    assert (bad.is_dir(), good.is_dir()) == (True, False)
    monkeypatch.undo()
    assert main(["recover", str(trace_dir)]) == 0
    assert len(open_trace(trace_dir).process_list) == 2
    assert not (trace_dir / "spool").exists()


@pytest.mark.parametrize("quiet", [True, False])
def test_the_finaliser_says_what_it_has_left(trace_dir: Path, quiet: bool) -> None:
    spool_of(trace_dir, 7).finish()
    damage(spool_of(trace_dir, 8).finish())
    argv = [sys.executable, "-m", "memtrace.finalise", "--trace", str(trace_dir)]
    done = subprocess.run(
        [*argv, *["--quiet"] * quiet], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if "control.bin is cut short" in line]
    assert len(said) == 1
    assert said[0].startswith("memtrace: ")
    assert len(open_trace(trace_dir).process_list) == 1


def test_nothing_but_a_damaged_spool(trace_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(spool_of(trace_dir).finish())
    with pytest.raises(MemtraceError, match="is cut short"):
        open_trace(trace_dir)
    capsys.readouterr()
    for command in ("summary", "recover"):
        assert main([command, str(trace_dir)]) == 1
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("memtrace: ")
        assert last.endswith("(5 bytes)")
