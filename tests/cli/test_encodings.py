"""Names that are not UTF-8, and terminals that are not either: never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from memtrace.errors import readable
from trace_builder import TraceBuilder, failing_trace, serving_trace

MAIN = "import sys; from memtrace.cli import main; sys.exit(main())"
#: As sys.argv has the bytes a, 0xff, b.
ODD = "a\udcffb"


def shown(encoding: str, *words: str | Path) -> tuple[int, bytes, bytes]:
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *map(os.fsencode, words)],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": encoding},
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A trace of a program with an argument that is not UTF-8."""
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process(argv=json.dumps(["serve.py", ODD, "café"]))
    process.alloc("cuda:0", 4096, operator="aten::mm", source="x.py:1 f", module="h")
    return builder.write()


@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii", "ascii:strict", "latin-1"])
@pytest.mark.parametrize(
    "command", [["summary"], ["peak"], ["at", "--time", "0"], ["summary", "--json"]]
)
def test_every_answer_in_every_encoding(odd: Path, encoding: str, command: list[str]) -> None:
    status, out, err = shown(encoding, *command, odd)
    assert (status, err) == (0, b"")
    if encoding.startswith("ascii"):
        assert out.isascii()
    if command == ["summary"]:
        assert b"a\\xffb" in out
        assert b"\\xb7" not in out
    if "--json" in command:
        (process,) = json.loads(out)["processes"]
        assert process["argv"] == ["serve.py", "a\\xffb", "café"]


@pytest.mark.parametrize("command", ["leaks", "fragmentation", "oom"])
def test_pages_of_failures_in_ascii(tmp_path: Path, command: str) -> None:
    trace = failing_trace(tmp_path / "x.memtrace")
    status, out, err = shown("ascii:strict", command, trace)
    assert (status, err) == (0, b"")
    assert out.isascii()
    assert b" | " in out
    assert b"\\xb7" not in out


def test_signs_of_our_own_have_others_in_ascii(odd: Path) -> None:
    _, out, _ = shown("ascii", "peak", odd)
    assert b"    module h | x.py:1 f | category other\n" in out
    _, out, _ = shown("utf-8", "peak", odd)
    assert "    module h · x.py:1 f · category other\n".encode() in out


@pytest.mark.parametrize(
    "command", [["summary"], ["peak"], ["recover"], ["export", "--to", "perfetto", "-o", "-"]]
)
def test_a_path_that_is_not_utf8(tmp_path: Path, command: list[str]) -> None:
    trace = serving_trace(tmp_path / "x.memtrace").rename(tmp_path / f"{ODD}.memtrace")
    status, out, err = shown("utf-8:strict", *command, trace)
    assert (status, err) == (0, b"")
    assert (b"a\\xffb.memtrace" in out) == (command[0] in ("summary", "recover"))
    status, out, err = shown("utf-8:strict", *command, tmp_path / f"no{ODD}")
    assert (status, out) == (1, b"")
    assert err.endswith(b"noa\\xffb: no such trace\n")


def test_what_can_be_printed_is_left_as_it_is() -> None:
    assert readable("é 模型 😀") == "é 模型 😀"
    assert readable(ODD) == "a\\xffb"
    assert readable("\ud800x") == "\\ud800x"
