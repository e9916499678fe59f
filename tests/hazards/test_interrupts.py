"""Ctrl-C while memtrace itself begins or ends something: it arrives, nothing is left half done."""

from __future__ import annotations

import importlib.util
import textwrap
from pathlib import Path

import pytest

from program_runs import Shown, main_process, python
from program_runs import memtrace as memtrace_command

CALLS = Path(__file__).resolve().parent.parent / "programs" / "unharmed" / "interrupted_calls.py"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed"
)


def run(tmp_path: Path, text: str) -> Shown:
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(text))
    return python(path, cwd=tmp_path)


def at_every_native_call(what: str, folder: Path) -> None:
    shown = python(CALLS, what, folder)
    assert (shown.status, shown.err) == (0, b""), shown.err.decode()
    assert int(shown.out) > 40


def test_one_that_comes_while_a_recording_begins(tmp_path: Path) -> None:
    at_every_native_call("begins", tmp_path)


def test_one_that_comes_while_a_recording_ends(tmp_path: Path) -> None:
    at_every_native_call("ends", tmp_path)


def test_one_that_comes_at_the_marks_of_a_block(tmp_path: Path) -> None:
    at_every_native_call("marks", tmp_path)


def test_one_that_comes_while_the_trace_is_finished(tmp_path: Path) -> None:
    shown = run(tmp_path, """
        import os, signal, threading, time, torch, memtrace
        def interrupt():
            while memtrace.recording.current() is not None:
                time.sleep(0.001)
            time.sleep(0.1)  # a finaliser takes longer, and has begun
            os.kill(os.getpid(), signal.SIGINT)
        try:
            with memtrace.record("t.memtrace"):
                kept = torch.empty(12345, dtype=torch.uint8)
                threading.Thread(target=interrupt).start()
        except KeyboardInterrupt:
            print("arrived")
    """)  # fmt: skip
    assert (shown.status, shown.out) == (0, b"arrived\n")
    hint = "the trace could not be finished; to finish it: python -m memtrace recover t.memtrace"
    assert shown.err.decode() == f"memtrace: {hint}\n"
    assert memtrace_command("recover", "t.memtrace", cwd=tmp_path).status == 0
    row = main_process(tmp_path / "t.memtrace")
    assert (row["complete"], row["end_reason"]) == (True, "stopped")


def test_one_that_comes_before_run_has_started_the_program(tmp_path: Path) -> None:
    (tmp_path / "never.py").write_text("print('it ran')\n")
    shown = run(tmp_path, """
        import _thread
        from memtrace.run import command
        def interrupted(*_):
            _thread.interrupt_main()
        command._program_environment = interrupted
        try:
            command.run_command(["-o", "t.memtrace", "never.py"])
        except KeyboardInterrupt:
            print("arrived")
    """)  # fmt: skip
    assert (shown.status, shown.out, shown.err) == (0, b"arrived\n", b"")
    assert not (tmp_path / "t.memtrace").exists()
