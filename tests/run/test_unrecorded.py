"""Pythons that cannot be recorded: they run as ever, and are counted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from program_runs import main_process, plain_environment, python, recorded

_OTHER_PYTHONS = sorted(Path("~/.pyenv/versions").expanduser().glob("*/bin/python"))


@pytest.mark.parametrize("other", _OTHER_PYTHONS, ids=lambda path: path.parent.parent.name)
def test_other_pythons_run_as_ever_and_are_counted(tmp_path: Path, other: Path) -> None:
    code = (
        "import sys; print(sys.version_info[:2], 'sitecustomize' in sys.modules, sys.path, "
        "[m for m in sys.modules if m.startswith('memtrace')])"
    )
    plain = subprocess.run([other, "-c", code], capture_output=True, text=True, check=True)
    if plain.stdout.startswith(f"{sys.version_info[:2]} "):
        pytest.skip("the Python of these tests")
    trace = tmp_path / "t.memtrace"
    outer = (
        "import subprocess, sys; done = subprocess.run(sys.argv[1:], capture_output=True, "
        "text=True); print(done.returncode, done.stdout, done.stderr, sep='', end='')"
    )
    shown = recorded(trace, "-c", outer, other, "-c", code)
    assert shown.err == b""
    assert shown.out.decode() == f"0{plain.stdout}{plain.stderr}"
    assert main_process(trace)["unrecorded_children"] == 1


@pytest.mark.parametrize(("call", "counted"), [
    ("os.execv(sys.executable, [sys.executable, '-I', '-c', CODE])", 1),
    ("os.execve(sys.executable, [sys.executable, '-c', CODE], {})", 1),
    ("os.execlp('python3', 'python3', '-E', '-c', CODE)", 1),
    ("os.execv(sys.executable, [sys.executable, '-c', CODE])", 0),
    ("os.execv('/bin/sh', ['sh', '-c', 'echo ran; exit 6'])", 0),
])  # fmt: skip
def test_a_program_that_becomes_a_python_that_cannot_be_recorded(
    tmp_path: Path, call: str, counted: int
) -> None:
    trace = tmp_path / "t.memtrace"
    env = {**plain_environment(), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    code = (
        "import os, sys\n"
        "CODE = 'print(\"ran\"); raise SystemExit(6)'\n"
        "for words in (['/no/such/python', '-I'], ['/dev/null', '-I']):\n"
        "    try: os.execv(words[0], words)\n"
        "    except OSError as error: print(error, flush=True)\n"
        "try: os.execv(sys.executable, [sys.executable, '-I', 'x' * 200_000])\n"
        "except OSError as error: print(error, flush=True)\n"
        f"{call}\n"
    )
    plain = python("-c", code, env=env)
    assert plain.status == 6
    assert recorded(trace, "-c", code, env=env) == plain
    assert main_process(trace)["unrecorded_children"] == counted


@pytest.mark.parametrize("word", ["-V", "-VV", "-IV", "--version", "-h", "--help"])
def test_a_python_that_runs_nothing_is_not_counted(tmp_path: Path, word: str) -> None:
    trace = tmp_path / "t.memtrace"
    code = (
        "import subprocess, sys\n"
        f"subprocess.run([sys.executable, '{word}'], env={{}}, stdout=subprocess.DEVNULL)\n"
    )
    assert recorded(trace, "-c", code).status == 0
    assert main_process(trace)["unrecorded_children"] == 0
