"""Processes that outlive their parent: where a program adopts them, and what they hold open."""

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
    memtrace,
    plain_environment,
    processes,
    python,
    wait_for_finaliser,
)

_NEW_PIDS = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
_SUBREAPER = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)


def may_unshare() -> bool:
    try:
        return (
            subprocess.run([*_NEW_PIDS, "true"], capture_output=True, check=False).returncode == 0
        )
    except FileNotFoundError:
        return False


@pytest.fixture(params=["first process of a container", "subreaper"])
def adopting(request: pytest.FixtureRequest) -> list[str]:
    """The words before a command that make orphans its children."""
    if request.param == "subreaper":
        return [sys.executable, "-c", _SUBREAPER]
    if not may_unshare():
        pytest.skip("a new process namespace is not allowed here")
    return _NEW_PIDS


def run(*words: str | Path) -> Shown:
    done = subprocess.run(
        [str(word) for word in words], stdin=subprocess.DEVNULL, capture_output=True, timeout=60,
        check=False, env=plain_environment(),
    )  # fmt: skip
    return Shown(done.returncode, done.stdout, done.stderr)


def test_waiting_for_all_children_ends(tmp_path: Path, adopting: list[str]) -> None:
    program, trace = PROGRAMS / "wait_for_all.py", tmp_path / "t.memtrace"
    plain = run(*adopting, sys.executable, program, "7")
    assert (plain.status, plain.out) == (7, b"reaped 2\n")
    words = [sys.executable, "-m", "memtrace", "run", "-o", trace, program, "7"]
    shown = run(*adopting, *words)
    assert (shown.status, shown.out) == (7, plain.out)
    assert b"t.memtrace: " in shown.err
    row = main_process(trace)
    assert (row["exit_status"], row["complete"], row["end_reason"]) == (7, True, "exit")
    assert [row["start_method"] for row in processes(trace)].count("fork") == 2
    assert not (trace / "spool").exists()


@pytest.mark.parametrize("quiet", [[], ["--quiet"]])
def test_an_end_by_os_exit(tmp_path: Path, adopting: list[str], quiet: list[str]) -> None:
    trace = tmp_path / "t.memtrace"
    words = ["-m", "memtrace", "run", *quiet, "-o", trace, "-c", "import os; os._exit(3)"]
    shown = run(*adopting, sys.executable, *words)
    assert (shown.status, shown.out, shown.err == b"") == (3, b"", bool(quiet))
    row = main_process(trace)
    assert (row["exit_status"], row["complete"], row["end_reason"]) == (3, True, "os._exit")


def test_a_program_that_ignores_its_children(tmp_path: Path, adopting: list[str]) -> None:
    trace = tmp_path / "t.memtrace"
    code = (
        "import os, signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.close(2); "
        "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))"
    )
    words = ["-m", "memtrace", "run", "-o", trace, "-c", code]
    assert run(*adopting, sys.executable, *words) == Shown(0, b"", b"")
    assert main_process(trace)["complete"]


def test_where_no_finaliser_can_be_started(tmp_path: Path, adopting: list[str]) -> None:
    if os.getuid() != 0:
        pytest.skip("chroot needs root")
    trace = tmp_path / "t.memtrace"
    code = f"import os; os.chroot({str(tmp_path)!r}); print('ran', flush=True)"
    shown = run(*adopting, sys.executable, "-m", "memtrace", "run", "-o", trace, "-c", code)
    assert (shown.status, shown.out) == (0, b"ran\n")
    (line,) = shown.err.decode().splitlines()
    assert line.endswith(f"python -m memtrace recover {trace}")
    assert memtrace("recover", trace).status == 0
    assert main_process(trace)["end_reason"] == "exit"


def test_a_killed_one_is_finished_by_its_reader(tmp_path: Path) -> None:
    trace = tmp_path / "t.memtrace"
    words = [sys.executable, "-m", "memtrace", "run", "-o", trace, "-c"]
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    shown = run(sys.executable, "-c", _SUBREAPER, *words, code)
    assert (shown.status, shown.err) == (-signal.SIGKILL, b"")
    assert memtrace("summary", trace).status == 0
    assert not main_process(trace)["complete"]
    assert not (trace / "spool").exists()


def test_who_reads_the_output_waits_for_the_answer_and_not_for_orphans(tmp_path: Path) -> None:
    trace, ended = tmp_path / "t.memtrace", tmp_path / "ended"
    shown = memtrace("run", "-o", trace, PROGRAMS / "daemon.py", ended, cwd=tmp_path)
    assert not ended.exists()  # it lives on, and holds none of our descriptors
    assert shown.out == b"main ends\n"
    assert b"t.memtrace: " in shown.err
    ended.with_name("go").touch()
    wait_for_finaliser(trace)
    assert ended.exists()
    assert sorted(row["end_reason"] for row in processes(trace)) == ["exit", "exit", "os._exit"]


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
@pytest.mark.parametrize("leave", ["os.setgid(12345); os.setuid(12345)", "os.chroot('/proc')"])
def test_a_program_that_goes_out_of_reach_is_finished_nevertheless(
    tmp_path: Path, leave: str
) -> None:
    trace = tmp_path / "t.memtrace"
    code = f"import os; {leave}; print('ran')"
    plain = python("-c", code)
    assert (plain.status, plain.out) == (0, b"ran\n")
    shown = memtrace("run", "--quiet", "-o", trace, "-c", code)
    assert shown == plain
    wait_for_finaliser(trace)
    assert main_process(trace)["end_reason"] == "exit"
    deadline_s = time.monotonic() + 5
    while (trace / "spool").exists() and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert not (trace / "spool").exists()
