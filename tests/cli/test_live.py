"""memtrace live: what cannot be followed, or shown, is said in one line."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from memtrace.cli.main import main
from memtrace.live import recordings
from memtrace.live.recordings import choose_recording
from spool_writer import SpoolWriter, Writer
from trace_builder import serving_trace


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["live", *words]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    return line.removeprefix("memtrace: ")


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    return serving_trace(tmp_path / "finished.memtrace")


@pytest.mark.usefixtures("finished")
def test_paths_that_cannot_be_followed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("folder").mkdir()
    lines = {
        "missing": "missing: no such trace",
        "file": "file is a file; a trace is a directory, NAME.memtrace",
        "folder": "folder is not a memtrace trace",
        "finished.memtrace": "finished.memtrace is finished, nothing is recorded any more: "
        "python -m memtrace summary finished.memtrace",
    }
    for path, line in lines.items():
        assert refused(capsys, "--once", path) == line


def test_without_a_terminal_it_says_what_to_add(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "any.memtrace")
    assert line == "this is no terminal to draw in: add --once, or --once --json"
    assert refused(capsys, "--json", "any.memtrace") == "--json needs --once"


def test_without_textual_it_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = SpoolWriter(tmp_path / "t.memtrace")
    spool.log().alloc(10, 0x1000, 512)
    spool.finish()
    monkeypatch.setitem(sys.modules, "textual", None)
    # What prints once needs none.
    assert main(["live", "--once", str(tmp_path / "t.memtrace")]) == 0
    assert "512 B" in capsys.readouterr().out
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    line = refused(capsys, str(tmp_path / "t.memtrace"))
    assert line == "live needs Textual: pip install 'memtrace[live]'"


def test_which_recordings_run_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(recordings, "_written_to", lambda: iter(()))
    assert refused(capsys, "--once").startswith("no recording runs: start one")
    SpoolWriter(tmp_path / "ended.memtrace").finish()  # a process that is gone
    writer = Writer.this_process()
    for name in ("a", "b"):
        SpoolWriter(tmp_path / f"{name}.memtrace", pid=os.getpid(), writer=writer).finish()
        if name == "a":
            assert choose_recording() == Path("a.memtrace")
    line = refused(capsys, "--once")
    assert line == "2 recordings run: name one of a.memtrace, b.memtrace"
