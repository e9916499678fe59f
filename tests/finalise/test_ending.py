"""How a process ended, as the finaliser finds it out, and what it adds to the spool."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from memtrace import _core
from memtrace.finalise.ending import ProcessEnd, exit_of_pid_fd, seal_main
from memtrace.finalise.notes import merge_notes


def ended(code: str, *, reaped: bool) -> ProcessEnd:
    pid = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, "-S", "-c", code])
    fd = os.pidfd_open(pid)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    if reaped:
        os.waitpid(pid, 0)
    end = exit_of_pid_fd(fd, pid)
    if not reaped:
        os.waitpid(pid, 0)
    os.close(fd)
    return end


@pytest.mark.parametrize("reaped", [False, True])
def test_exit_status_and_signal(reaped: bool) -> None:
    if reaped and tuple(map(int, os.uname().release.split(".")[:2])) < (6, 15):
        pytest.skip("this kernel forgets a process that is reaped")
    assert ended("raise SystemExit(7)", reaped=reaped) == ProcessEnd(exit_status=7)
    kill = "import os; os.kill(os.getpid(), 9)"
    assert ended(kill, reaped=reaped) == ProcessEnd(signal_name="SIGKILL")


def make_spool(trace: Path, pid: int) -> Path:
    spool = trace / "spool" / f"process=host-{pid}-abc"
    spool.mkdir(parents=True)
    recorder = _core.Recorder(str(spool))
    recorder.process_note('{"host":"host"}')
    recorder.abandon()  # as if the process were gone
    return spool


@pytest.mark.parametrize(("end", "complete", "status", "reason"), [
    (ProcessEnd(exit_status=3, announced=True), True, 3, None),
    (ProcessEnd(signal_name="SIGKILL"), False, None, "signal SIGKILL"),
    (ProcessEnd(exit_status=4), False, 4, None),
    (ProcessEnd(), False, None, "unknown"),
])  # fmt: skip
def test_what_is_added(
    tmp_path: Path, end: ProcessEnd, complete: bool, status: int | None, reason: str | None
) -> None:
    spool = make_spool(tmp_path, 12)
    folder = tmp_path / "spool" / "unrecorded"
    folder.mkdir()
    (folder / "5").write_text("python -I")
    (folder / "6").write_text("another environment")
    seal_main(tmp_path, 12, end)
    reader = _core.SpoolReader(str(spool))
    notes = merge_notes(reader.process_notes())
    assert bool(reader.control["complete"]) == complete
    assert reader.control["exit_status"] == status
    assert notes.get("end_reason") == reason
    assert notes["unrecorded_children"] == 2
    assert notes["host"] == "host"
    assert not folder.exists()


def test_a_torn_last_note_is_cut_off(tmp_path: Path) -> None:
    spool = make_spool(tmp_path, 12)
    log = spool / "text.log"
    whole = log.read_bytes()
    log.write_bytes(whole + whole[-20:-5])
    seal_main(tmp_path, 12, ProcessEnd(signal_name="SIGTERM"))
    notes = merge_notes(_core.SpoolReader(str(spool)).process_notes())
    assert notes["end_reason"] == "signal SIGTERM"
    assert notes["host"] == "host"


def test_no_spool_and_a_broken_one(tmp_path: Path) -> None:
    seal_main(tmp_path, 12, ProcessEnd())
    spool = make_spool(tmp_path, 12)
    (spool / "control.bin").write_bytes(b"short")
    with pytest.raises(ValueError, match="not the control page"):
        seal_main(tmp_path, 12, ProcessEnd())
