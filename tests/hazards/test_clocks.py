"""A clock of the day that jumps: the times of a trace come from the one that does not."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hazards.measured_runs import PROGRAM, check_account
from preload import preloaded
from program_runs import plain_environment, python, recorded, wait_for_finaliser

#: Another day within ten, backwards or forwards, at each look at the clock of the day.
JUMPING = """
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long step_s(void) {
  static unsigned looks;
  return (long)(__atomic_add_fetch(&looks, 1, __ATOMIC_RELAXED) * 2654435761u % 1728000u) - 864000;
}
int clock_gettime(clockid_t clock, struct timespec* now) {
  long status = syscall(SYS_clock_gettime, clock, now);
  if (status == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
    now->tv_sec += step_s();
  return (int)status;
}
int gettimeofday(struct timeval* now, void* zone) {
  struct timespec exact;
  clock_gettime(CLOCK_REALTIME, &exact);
  now->tv_sec = exact.tv_sec;
  now->tv_usec = exact.tv_nsec / 1000;
  return 0;
}
time_t time(time_t* out) {
  struct timespec exact;
  clock_gettime(CLOCK_REALTIME, &exact);
  if (out) *out = exact.tv_sec;
  return exact.tv_sec;
}
"""
JUMPS = (
    "import time; looks = [time.time() for _ in range(9)]; "
    "print(max(looks) - min(looks) > 86400, looks != sorted(looks))"
)

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed"
)


def test_a_clock_of_the_day_that_jumps_at_every_look(tmp_path: Path) -> None:
    env = {**plain_environment(), **preloaded(JUMPING, tmp_path)}
    assert python("-c", JUMPS, env=env).out == b"True True\n"
    plain = python(PROGRAM, env=env)
    begin_s = time.monotonic()
    shown = recorded(tmp_path / "t.memtrace", PROGRAM, env=env)
    took_ns = (time.monotonic() - begin_s) * 1e9
    assert (shown.status, shown) == (0, plain)
    trace = check_account(shown.out, tmp_path / "t.memtrace")
    (process,) = trace.processes.to_pylist()
    events = sorted(trace.events.to_pylist(), key=lambda row: row["seq"])
    times = [row["time_ns"] for row in events]
    assert times == sorted(times)
    assert 0 <= times[0] <= times[-1] <= process["end_time_ns"] < took_ns
    sampled = [row["time_ns"] for row in trace.samples.to_pylist()]
    assert sampled
    assert all(-took_ns < value < took_ns for value in sampled)


def test_a_killed_program_is_finished_whatever_the_clock_says(tmp_path: Path) -> None:
    env = {**plain_environment(), **preloaded(JUMPING, tmp_path)}
    trace = tmp_path / "t.memtrace"
    argv = [
        sys.executable,
        "-m",
        "memtrace",
        "run",
        "--quiet",
        "-o",
        str(trace),
        str(PROGRAM),
        "60",
    ]
    program = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE)
    assert program.stdout is not None
    assert program.stdout.readline() == b"begins\n"
    time.sleep(0.5)
    os.kill(program.pid, signal.SIGKILL)
    program.communicate(timeout=60)
    wait_for_finaliser(trace)
    found = python("-m", "memtrace", "summary", trace, env=env)
    assert found.status == 0, found.err
    assert not list(trace.glob("spool/process=*"))
