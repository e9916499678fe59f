"""Runs a piece of code in a process of its own on a simulated machine."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

import simcuda


class RunCode(Protocol):
    """The type of the `run_code` fixture."""

    def __call__(
        self, code: str, *, settings: str = "", fresh: bool = False, **machine: int
    ) -> str:
        """Returns what the code printed; fails the test if it raised."""


@pytest.fixture(scope="session")
def _available() -> None:
    reason = simcuda.unavailable()
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def _server(_available: None) -> Iterator[subprocess.Popen[str]]:
    argv, env = simcuda.python_command(Path(__file__).parent / "fork_server.py")
    env["PYTHONPATH"] = str(simcuda.TESTS_FOLDER)
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, env=env, stdin=pipe, stdout=pipe, text=True) as server:
        yield server
        assert server.stdin is not None
        server.stdin.close()


@pytest.fixture
def run_code(_server: subprocess.Popen[str], tmp_path: Path) -> RunCode:
    """Returns a function that runs code, with torch imported, in a child process.

    Allocator settings need a fresh interpreter, for all else a fork will do.
    """

    def run_forked(program: str) -> tuple[int, str]:
        assert _server.stdin is not None
        assert _server.stdout is not None
        output = tmp_path / "output.txt"
        print(json.dumps({"code": program, "output": str(output)}), file=_server.stdin, flush=True)
        status = int(_server.stdout.readline())
        return status, output.read_text()

    def run_fresh(program: str, settings: str, machine: dict[str, int]) -> tuple[int, str]:
        path = tmp_path / "program.py"
        path.write_text(program)
        env = simcuda.environment(simcuda.Machine(**machine))
        env["PYTHONPATH"] = str(simcuda.TESTS_FOLDER)
        env["PYTORCH_CUDA_ALLOC_CONF"] = settings
        done = subprocess.run(
            [sys.executable, str(path)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        return done.returncode, done.stdout

    def run(code: str, *, settings: str = "", fresh: bool = False, **machine: int) -> str:
        program = "import torch\n" + textwrap.dedent(code)
        if settings or fresh:
            status, output = run_fresh(program, settings, machine)
        else:
            load = f"import simcuda\nsimcuda.load(**{machine!r})\n"
            status, output = run_forked(load + program)
        if status != 0:
            pytest.fail(f"exit status {status}\n{program}\n{output}", pytrace=False)
        return output

    return run
