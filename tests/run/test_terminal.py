"""A program on a terminal: its own, in the foreground, with the answer before the prompt."""

from __future__ import annotations

import os
import pty
import select
import signal
import sys
import time
from pathlib import Path

import pytest

from program_runs import PROGRAMS, main_process


def on_terminal(
    argv: list[str], typed: bytes, *, after: bytes, interrupt: bool = False
) -> tuple[int, bytes]:
    """Wait status and all output of a program whose user types something after some output."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execv(argv[0], argv)
    shown = b""
    sent = False
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        if select.select([fd], [], [], 0.1)[0]:
            try:
                data = os.read(fd, 4096)
            except OSError:  # the other side has closed
                break
            if not data:
                break
            shown += data
        if not sent and after in shown:
            time.sleep(0.3 if interrupt else 0.0)
            os.write(fd, typed)
            sent = True
    _, status = os.waitpid(pid, 0)
    os.close(fd)
    return os.waitstatus_to_exitcode(status), shown


def test_the_terminal_is_the_programs(tmp_path: Path) -> None:
    program = str(PROGRAMS / "terminal.py")
    run = ["-m", "memtrace", "run", "--quiet", "-o", str(tmp_path / "t.memtrace")]
    plain = on_terminal([sys.executable, program], b"typed\n", after=b"prompt>")
    traced = on_terminal([sys.executable, *run, program], b"typed\n", after=b"prompt>")
    assert traced == plain
    assert b"[True, True, True]" in plain[1]


def test_the_answer_to_ctrl_c_comes_before_the_prompt(tmp_path: Path) -> None:
    program = str(PROGRAMS / "keyboard_interrupt.py")
    trace = tmp_path / "t.memtrace"
    run = ["-m", "memtrace", "run", "-o", str(trace)]
    status, shown = on_terminal(
        [sys.executable, *run, program, "uncaught"], b"\x03", after=b"ready", interrupt=True
    )
    assert status == -signal.SIGINT
    assert b"memtrace: " in shown[shown.index(b"KeyboardInterrupt") :]
    assert main_process(trace)["complete"]


@pytest.mark.parametrize("how", ["python", "c"])
def test_a_thread_that_reads_the_terminal_does_not_hold_up_the_end(
    tmp_path: Path, how: str
) -> None:
    program = str(PROGRAMS / "reading_at_end.py")
    run = ["-m", "memtrace", "run", "--quiet", "-o", str(tmp_path / "t.memtrace")]
    start_s = time.monotonic()
    shown = on_terminal([sys.executable, *run, program, how], b"", after=b"never")
    assert shown == (0, b"main ends\r\n")
    assert time.monotonic() - start_s < 30
