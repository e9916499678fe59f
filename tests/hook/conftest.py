"""The stack table of csrc/hook/python_stack.h in a small extension, built for this interpreter."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

PROGRAMS = HERE.parent / "programs"


@pytest.fixture(scope="session")
def stack_extension() -> ModuleType:
    folder = importlib.import_module("stack_testing").build()
    sys.path.insert(0, str(folder))
    return importlib.import_module("memtrace_stack_testing")


@pytest.fixture
def stacks(stack_extension: ModuleType) -> ModuleType:
    """A new recording: its own table, its own ids."""
    stack_extension.start()
    stack_extension.install_modules(importlib.import_module("fake_module").Module)
    return stack_extension


@pytest.fixture
def run_stack_program(stack_extension: ModuleType) -> Callable[[str], str]:
    """Runs tests/programs/NAME in a new process; gives what it printed."""

    def run(name: str) -> str:
        paths = [str(Path(stack_extension.__file__).parent), str(HERE)]
        done = subprocess.run(
            [sys.executable, str(PROGRAMS / name)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{name}: status {done.returncode}\n{done.stderr}"
        assert "Sanitizer" not in done.stderr, done.stderr
        return done.stdout

    return run
