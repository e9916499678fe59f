"""Recorded twice at once, in each way there is: every event is in one trace, and there once."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from hazards.measured_runs import PROGRAM, check_account
from program_runs import main_process, plain_environment, python, recorded

RUN = f"import runpy; runpy.run_path({str(PROGRAM)!r}, run_name='__main__')"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed"
)


def test_record_in_a_program_that_is_recorded(tmp_path: Path) -> None:
    blocks = (
        "import memtrace\n"
        "for _ in range(3):\n"
        "    with memtrace.record('inner'): pass\n"
        f"with memtrace.record('inner'): {RUN}\n"
    )
    shown = recorded(tmp_path / "t.memtrace", "-c", blocks, cwd=tmp_path)
    assert (shown.status, shown.err.count(b"\n")) == (0, 4), shown.err
    check_account(shown.out, tmp_path / "t.memtrace")
    assert [path.name for path in tmp_path.iterdir()] == ["t.memtrace"]


def test_a_second_start_of_the_hooks_is_refused(tmp_path: Path) -> None:
    code = (
        "import sys, torch\n"
        "from memtrace import recording\n"
        "from memtrace.hook import installed\n"
        "for _ in range(2):\n"
        "    try: installed.prepare(recording.current(), torch).begin()\n"
        "    except RuntimeError as error: print(error)\n"
        f"{RUN}"
    )
    shown = recorded(tmp_path / "t.memtrace", "-c", code)
    assert (shown.status, shown.err) == (0, b"")
    assert shown.out.startswith(b"a recording is already on in this process\n" * 2)
    check_account(shown.out, tmp_path / "t.memtrace")


@pytest.mark.parametrize("how", ["subprocess.run(argv, check=True)", "os.execv(argv[0], argv)"])
def test_a_launcher_that_records_in_one_that_is_recorded(tmp_path: Path, how: str) -> None:
    inner, outer = tmp_path / "inner.memtrace", tmp_path / "outer.memtrace"
    words = ["-m", "memtrace", "run", "--quiet", "-o", str(inner), str(PROGRAM)]
    launcher = f"import os, subprocess\nargv = {[sys.executable, *words]!r}\n{how}"
    plain = python(PROGRAM, env=plain_environment())
    assert recorded(outer, "-c", launcher) == plain
    check_account(plain.out, inner)
    assert main_process(outer)["lost_total"] == 0
