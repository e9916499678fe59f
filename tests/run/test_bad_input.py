"""A user's error: one clear line, status 1, no traceback, no trace left behind, nothing run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from program_runs import memtrace


def refused(tmp_path: Path, *words: str | Path, **kwargs: object) -> str:
    before = sorted(tmp_path.iterdir())
    shown = memtrace(*words, cwd=tmp_path, **kwargs)
    assert shown.status == 1
    assert shown.out == b""
    (line,) = shown.err.decode().splitlines()
    assert line.startswith("memtrace: ")
    assert sorted(tmp_path.iterdir()) == before
    return line


def test_no_such_script(tmp_path: Path) -> None:
    assert "no such script: absent.py" in refused(tmp_path, "run", "absent.py")


def test_a_folder_without_main(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    assert "__main__.py" in refused(tmp_path, "run", "app")


def test_nothing_to_run(tmp_path: Path) -> None:
    assert "what to run" in refused(tmp_path, "run")
    assert "no such option: --nope" in refused(tmp_path, "run", "--nope", "a.py")


@pytest.mark.parametrize("words", [["-m", "memtrace", "run"], ["-m", "memtrace.cli"], ["memtrace"]])
def test_memtrace_itself(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "memtrace").write_text("print('ran')")
    assert "does not record itself" in refused(tmp_path, "run", *words, "a.py")


def test_output_that_exists(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    program = tmp_path / "a.py"
    program.write_text("print('ran')")
    assert "--force" in refused(tmp_path, "run", "-o", "out", program)
    assert "not a memtrace trace" in refused(tmp_path, "run", "--force", "-o", "out", program)


def test_unwritable_output(tmp_path: Path) -> None:
    assert "cannot create the trace" in refused(tmp_path, "run", "-o", "/proc/x", "-c", "print(1)")


@pytest.mark.skipif(os.getuid() != 0, reason="mounting needs root")
def test_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "none", disk], check=False)
    if mounted.returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        line = refused(tmp_path, "run", "-o", disk / "x.memtrace", "-c", "print(1)")
        assert "No space left" in line
        assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("letter", ["I", "E", "S"])
def test_python_options_that_rule_recording_out(tmp_path: Path, letter: str) -> None:
    # memtrace must be importable without PYTHONPATH for the line to come from us.
    shown = memtrace("run", "-c", "print(1)", cwd=tmp_path, python_options=[f"-{letter}"])
    assert shown.status == 1
    assert b"Traceback" not in shown.err
    assert f"-{letter}".encode() in shown.err or b"No module named" in shown.err


def test_the_program_runs_when_its_spool_cannot_be_made(tmp_path: Path) -> None:
    # Between `memtrace run` and the program the trace has gone.
    trace = tmp_path / "x.memtrace"
    code = f"import shutil; shutil.rmtree({str(trace)!r}); print('ran')"
    shown = memtrace("run", "-q", "-o", trace, "-c", code)
    assert (shown.status, shown.out) == (0, b"ran\n")
    assert b"Traceback" not in shown.err


def test_a_finaliser_that_dies_does_not_hold_the_program(tmp_path: Path) -> None:
    trace = tmp_path / "x.memtrace"
    code = (
        "import os, signal\n"
        "for pid in filter(str.isdigit, os.listdir('/proc')):\n"
        "    try: words = open(f'/proc/{pid}/cmdline').read().split('\\0')\n"
        "    except OSError: continue\n"
        f"    if {'--trace=' + str(trace)!r} in words and '--pid-fd' in words:\n"
        "        os.kill(int(pid), signal.SIGKILL)\n"
        "print('ran')\n"
    )
    shown = memtrace("run", "-o", trace, "-c", code, cwd=tmp_path)
    assert (shown.status, shown.out) == (0, b"ran\n")
    assert shown.err.decode() == (
        "memtrace: the trace could not be finished; to finish it: "
        "python -m memtrace recover x.memtrace\n"
    )
    assert memtrace("recover", trace).status == 0
    assert (trace / "processes").is_dir()
