"""A program that is stopped and goes on, anywhere and often: its trace has everything."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hazards.measured_runs import PROGRAM, check_account
from program_runs import plain_environment, wait_for_finaliser

STOPS = 40
PROGRAM_S = 1.0
SEED = random.randrange(1 << 30)  # printed when a test fails

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed"
)


def test_forty_stops_of_a_program_that_allocates(tmp_path: Path) -> None:
    trace = tmp_path / "t.memtrace"
    argv = [sys.executable, "-m", "memtrace", "run", "--quiet", "-o", str(trace)]
    program = subprocess.Popen(
        [*argv, str(PROGRAM), str(PROGRAM_S)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=plain_environment(),
    )  # fmt: skip
    assert program.stdout is not None
    assert program.stdout.readline() == b"begins\n"
    chance = random.Random(SEED)
    stopped = 0
    for _ in range(STOPS):
        time.sleep(chance.random() * 0.7 * PROGRAM_S / STOPS)
        os.kill(program.pid, signal.SIGSTOP)
        # That it stops, and has not ended: WNOWAIT would take the end away from communicate().
        seen = os.waitid(os.P_PID, program.pid, os.WSTOPPED | os.WNOHANG)
        deadline_s = time.monotonic() + 10
        while seen is None and time.monotonic() < deadline_s:
            time.sleep(0.0005)
            seen = os.waitid(os.P_PID, program.pid, os.WSTOPPED | os.WNOHANG)
        stopped += seen is not None
        time.sleep(0.01)
        os.kill(program.pid, signal.SIGCONT)
    out, errors = program.communicate(timeout=60)
    wait_for_finaliser(trace)
    assert (program.returncode, errors) == (0, b"")
    assert stopped == STOPS, f"seed {SEED}"
    check_account(out, trace)
