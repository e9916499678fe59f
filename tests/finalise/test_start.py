"""The finaliser starts together with the program: until the program ends, it must weigh little."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HEAVY = ("click", "numpy", "psutil", "pyarrow", "rich", "torch")


def loaded(code: str) -> set[str]:
    """Which of HEAVY a Python has imported after running the code."""
    shown = f"{code}; import sys; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_what_waits_for_the_program_imports_nothing_heavy() -> None:
    assert loaded("import memtrace.finalise.__main__") == set()


def test_what_converts_is_there_when_asked_for() -> None:
    assert loaded("from memtrace.finalise import finalise, recover") >= {"numpy", "pyarrow"}


def test_functions_are_registered_before_a_second_thread_looks_for_one() -> None:
    code = "import memtrace.finalise.process_files, sys; print('pyarrow._compute' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_pandas_is_left_alone_where_it_is_installed(tmp_path: Path) -> None:
    """pyarrow imports it at the first list of words: as long as the rest of a short ending."""
    (tmp_path / "pandas.py").write_text("print('imported'); __version__ = '3.0.0'")
    words = "import pyarrow; pyarrow.array(['a'])"
    found = []
    finaliser = "from memtrace.finalise import use_little_memory as use; use(); use()"
    command = "import sys; sys.argv[1:] = [{}]; from memtrace.__main__ import main; main()"
    peak, mlflow = command.format("'peak', '--help'"), command.format("'mlflow', '--help'")
    for before in ("pass", mlflow, finaliser, peak):
        code = f"{before}; {words}"
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        )
        found.append("imported" in done.stdout)
        assert found[-1] or done.returncode == 0, done.stderr
    assert found == [True, True, False, False]
