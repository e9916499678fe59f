"""A program under `memtrace run` shows nothing that it would not show under plain python."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from program_runs import (
    PROGRAMS,
    Shown,
    main_process,
    plain_environment,
    processes,
    python,
    recorded,
    without_trackers_race,
)

_EXITS = ["end", "none", "0", "3", "256", "-1", "text", "object", "raise"]
_OS_EXITS = ["os._exit", "os._exit-keyword", "os._exit-wrong"]


def compare(tmp_path: Path, *words: str | Path, **kwargs: object) -> Shown:
    """Both runs are equal; what they showed."""
    plain = python(*words, **kwargs)
    traced = recorded(tmp_path / "t.memtrace", *words, **kwargs)
    assert traced == plain
    return plain


@pytest.mark.parametrize("how", [*_EXITS, *_OS_EXITS])
def test_exit_status(tmp_path: Path, how: str) -> None:
    shown = compare(tmp_path, PROGRAMS / "exit_statuses.py", how)
    row = main_process(tmp_path / "t.memtrace")
    assert row["exit_status"] == shown.status
    assert row["complete"]
    uses_os_exit = how in ("os._exit", "os._exit-keyword")
    reason = "exception" if how == "os._exit-wrong" else "exit"
    assert row["end_reason"] == ("os._exit" if uses_os_exit else reason)


def test_abort(tmp_path: Path) -> None:
    assert compare(tmp_path, PROGRAMS / "exit_statuses.py", "abort").status == -signal.SIGABRT
    row = main_process(tmp_path / "t.memtrace")
    assert not row["complete"]
    assert row["end_reason"] in ("signal SIGABRT", "unknown")


@pytest.mark.parametrize("words", [
    ["SIGINT"], ["SIGTERM"], ["SIGKILL"], ["SIGHUP"], ["SIGUSR1"], ["SIGSEGV"], ["SIGPIPE"],
    ["SIGINT", "handled"], ["SIGTERM", "handled"], ["SIGTERM", "ignored"],
])  # fmt: skip
def test_signal(tmp_path: Path, words: list[str]) -> None:
    compare(tmp_path, PROGRAMS / "signals.py", *words)
    assert main_process(tmp_path / "t.memtrace")["lost_total"] == 0


@pytest.mark.parametrize("which", [
    "chained", "recursion", "stack", "own_hook", "failing_hook", "in_thread", "syntax",
])  # fmt: skip
def test_traceback_is_the_same_byte_for_byte(tmp_path: Path, which: str) -> None:
    compare(tmp_path, PROGRAMS / "tracebacks.py", which)


def test_a_syntax_error_is_shown_as_python_shows_it(tmp_path: Path) -> None:
    program = tmp_path / "broken.py"
    program.write_text("x = (1,\n")
    assert b"SyntaxError" in compare(tmp_path, program).err


@pytest.mark.parametrize("options", [
    [], ["-u"], ["-W", "error::UserWarning"], ["-Wignore", "-O"], ["-X", "dev"],
    ["-X", "utf8", "-B"], ["-bb", "-s"],
])  # fmt: skip
def test_identity(tmp_path: Path, options: list[str]) -> None:
    program, trace = PROGRAMS / "identity.py", tmp_path / "t.memtrace"
    words = [program, "a b", "--flag", "-o", "x"]
    assert recorded(trace, *words, python_options=options) == python(*options, *words)


def test_identity_from_a_relative_path(tmp_path: Path) -> None:
    compare(tmp_path, PROGRAMS.name + "/identity.py", cwd=PROGRAMS.parent)


def test_module(tmp_path: Path) -> None:
    package = tmp_path / "somewhere" / "pkg"
    package.mkdir(parents=True)
    text = (PROGRAMS / "identity.py").read_text()
    (package / "__init__.py").write_text("print('package', __name__)\n")
    (package / "__main__.py").write_text(text + "from . import part\n")
    (package / "part.py").write_text(text)
    for words in (["-m", "pkg", "a"], ["-m", "pkg.part", "-x"], ["-mpkg"], ["-m", "no_such"]):
        trace = tmp_path / f"{len(list(tmp_path.iterdir()))}.memtrace"
        plain = python(*words, cwd=package.parent)
        assert recorded(trace, *words, cwd=package.parent) == plain, words


def test_code_folder_zip_and_standard_input(tmp_path: Path) -> None:
    text = (PROGRAMS / "identity.py").read_text()
    compare(tmp_path / "c", "-c", text, "a", "-m")
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "__main__.py").write_text(text)
    compare(tmp_path / "d", folder, "a")
    subprocess.run([sys.executable, "-m", "zipapp", folder, "-o", tmp_path / "app.pyz"], check=True)
    compare(tmp_path / "z", tmp_path / "app.pyz", "a")
    compare(tmp_path / "s", "-", "a", input=text.encode())


@pytest.fixture(autouse=True)
def _subfolders(tmp_path: Path) -> None:
    for name in "cdzs":
        (tmp_path / name).mkdir()


def test_standard_input_is_the_programs(tmp_path: Path) -> None:
    compare(tmp_path, PROGRAMS / "standard_input.py", input=b"one\ntwo")


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(tmp_path: Path, method: str) -> None:
    program = [PROGRAMS / "pickling.py", method]
    traces = [tmp_path / f"{number}.memtrace" for number in range(5)]
    traced = without_trackers_race(lambda number: recorded(traces[number], *program))
    assert traced == without_trackers_race(lambda _: python(*program))
    rows = processes(max(trace for trace in traces if trace.exists()))
    children = [row for row in rows if row["start_method"] != "main"]
    # A pool of two and one process; with forkserver also the server that forks them.
    assert len(children) == (4 if method == "forkserver" else 3)
    assert all(row["parent"] for row in children)
    ended = [row["exit_status"] for row in children if row["end_reason"] == "os._exit"]
    if method == "fork":
        assert 6 in ended
        assert {row["start_method"] for row in children} == {"fork"}
    if method == "spawn":
        assert {row["start_method"] for row in children} == {"spawn"}


def test_subprocesses(tmp_path: Path) -> None:
    compare(tmp_path, PROGRAMS / "subprocesses.py")
    rows = processes(tmp_path / "t.memtrace")
    main = rows[0]
    # Recorded: the plain one, the one with more environment, the one of os.system, posix_spawn.
    assert [row["start_method"] for row in rows] == ["main"] + ["subprocess"] * 4
    assert [row["parent_pid"] for row in rows].count(main["pid"]) >= 3


def test_wait_sees_no_child_of_ours(tmp_path: Path) -> None:
    compare(tmp_path, PROGRAMS / "waiting.py")


def test_threads_and_exit_handlers(tmp_path: Path) -> None:
    compare(tmp_path, PROGRAMS / "threads_outlive_main.py")
    assert main_process(tmp_path / "t.memtrace")["complete"]


def test_closed_descriptors(tmp_path: Path) -> None:
    compare(tmp_path, PROGRAMS / "close_all_fds.py", tmp_path / "mine")


def test_environment_changes(tmp_path: Path) -> None:
    compare(tmp_path, PROGRAMS / "environment_changes.py")


def test_forks(tmp_path: Path) -> None:
    compare(tmp_path, PROGRAMS / "forks.py")
    rows = processes(tmp_path / "t.memtrace")
    assert [row["start_method"] for row in rows].count("fork") == 110
    exits = [row for row in rows if row["start_method"] == "fork" and row["end_reason"] == "exit"]
    assert sorted(row["exit_status"] for row in exits) == list(range(2, 100, 10))
    assert not list(tmp_path.glob("t.memtrace/spool/process=*"))


def test_the_status_of_children_that_exit(tmp_path: Path) -> None:
    code = (
        "import ctypes, os, subprocess, sys\n"
        "if os.fork() == 0:\n"
        "    raise SystemExit(3)\n"
        "os.wait()\n"
        "subprocess.run([sys.executable, '-c', 'raise SystemExit(4)'])\n"
        "if os.fork() == 0:\n"
        "    ctypes.CDLL(None).exit(5)\n"  # no handler of Python's runs
        "os.wait()\n"
        "if ctypes.CDLL(None).fork() == 0:\n"  # unseen: it must not speak for its parent
        "    ctypes.CDLL(None).exit(6)\n"
        "os.wait()\n"
    )
    assert recorded(tmp_path / "t.memtrace", "-c", code).status == 0
    rows = processes(tmp_path / "t.memtrace")
    assert [(row["exit_status"], row["end_reason"], row["complete"]) for row in rows] == [
        (0, "exit", True), (3, "exit", True), (4, "exit", True), (5, "exit", False),
    ]  # fmt: skip


def test_exec(tmp_path: Path) -> None:
    compare(tmp_path, PROGRAMS / "exec_self.py")
    rows = processes(tmp_path / "t.memtrace")
    assert [row["start_method"] for row in rows] == ["main", "exec"]
    assert rows[0]["end_reason"] == "exec"
    assert rows[0]["pid"] == rows[1]["pid"]


def test_full_output(tmp_path: Path) -> None:
    program = PROGRAMS / "full_output.py"
    with open("/dev/full", "wb") as full:
        shown = compare(tmp_path, program, stdout=full)
    assert shown.status == main_process(tmp_path / "t.memtrace")["exit_status"] == 120


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_closed_standard_streams(tmp_path: Path, closed: int) -> None:
    words = [sys.executable, "-m", "memtrace", "run", "-q", "-o", str(tmp_path / "t.memtrace")]
    program = [str(PROGRAMS / "exit_statuses.py"), "3"]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}>&-', "sh", *words, *program],
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    plain = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}>&-', "sh", sys.executable, *program],
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (plain.returncode, plain.stdout)


@pytest.mark.parametrize("how", ["end", "os._exit"])
def test_a_late_alarm_does_not_end_the_wait_for_the_answer(tmp_path: Path, how: str) -> None:
    assert compare(tmp_path, PROGRAMS / "late_alarm.py", how).out == b"done\n"
    assert main_process(tmp_path / "t.memtrace")["exit_status"] == 0


def test_functions_of_os_are_pickled_as_ever(tmp_path: Path) -> None:
    shown = compare(tmp_path, PROGRAMS / "pickled_exits.py")
    assert shown.out.splitlines()[1:] == [b"7", b"OverflowError", b"TypeError", b"TypeError"]
    row = main_process(tmp_path / "t.memtrace")
    assert (row["end_reason"], row["complete"]) == ("exit", True)


def test_os_exit_prints_nothing_that_c_code_had_not_flushed(tmp_path: Path) -> None:
    code = "import ctypes, os; ctypes.CDLL(None).printf(b'kept back'); os._exit(0)"
    assert compare(tmp_path, "-c", code).out == b""


@pytest.mark.parametrize(("how", "status"), [("caught", 3), ("uncaught", -signal.SIGINT)])
def test_ctrl_c_reaches_the_program_and_not_the_finaliser(
    tmp_path: Path, how: str, status: int
) -> None:
    program = str(PROGRAMS / "keyboard_interrupt.py")
    trace = tmp_path / "t.memtrace"
    results = []
    for words in ([], ["-m", "memtrace", "run", "--quiet", "-o", str(trace)]):
        process = subprocess.Popen(
            [sys.executable, *words, program, how],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.3)  # until it sleeps
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        out, err = process.communicate(timeout=60)
        results.append((process.returncode, out, err))
    assert results[0] == results[1]
    assert results[0][0] == status
    row = main_process(trace)
    assert row["end_reason"] == ("exit" if how == "caught" else "signal SIGINT")


def test_a_child_that_lives_on_is_left_for_recover(tmp_path: Path) -> None:
    trace = tmp_path / "t.memtrace"
    start_s = time.monotonic()
    shown = recorded(
        trace, PROGRAMS / "outliving_child.py", env={**plain_environment(), "OUTLIVE_S": "30"}
    )  # fmt: skip
    assert time.monotonic() - start_s < 25
    assert shown.out == b"parent ends\n"
    assert [row["start_method"] for row in processes(trace)] == ["main"]
    (left,) = trace.glob("spool/process=*")
    os.kill(int(left.name.split("-")[-2]), signal.SIGKILL)


@pytest.mark.parametrize(("code", "ended"), [
    ("import code; code.InteractiveConsole(globals()).runsource('1 / 0')", ("exit", None)),
    ("def f():\n  try: 1 / 0\n  except: sys.last_type, _, sys.last_traceback = sys.exc_info()\nf()",
     ("exit", None)),
    ("def f(): 1 / 0\nf()", ("exception", "ZeroDivisionError")),
    ("1 +", ("exception", "SyntaxError")),
])  # fmt: skip
@pytest.mark.parametrize("words", [["program.py"], ["-m", "program"]], ids=["file", "module"])
def test_an_exception_ends_a_program_or_was_shown_and_caught(
    tmp_path: Path, code: str, ended: tuple[str, str | None], words: list[str]
) -> None:
    (tmp_path / "program.py").write_text(f"import sys\n{code}\n")
    recorded(tmp_path / "t.memtrace", *words, cwd=tmp_path)
    row = main_process(tmp_path / "t.memtrace")
    assert (row["end_reason"], row["exception"]) == ended
