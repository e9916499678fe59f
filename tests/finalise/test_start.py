"""The finaliser starts together with the program: until the program ends, it must weigh little."""

from __future__ import annotations

import subprocess
import sys

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
    code = "import memtrace.finalise.background, sys; print('pyarrow._compute' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
