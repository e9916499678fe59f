"""A program of tests/programs/live under `memtrace run`, which goes on when it is told to."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from memtrace.analyse.live_view import LiveView
from memtrace.live.follow import TraceFollower
from program_runs import plain_environment, wait_for_finaliser

PROGRAMS = Path(__file__).resolve().parent.parent / "programs" / "live"
_PATIENCE_S = 60.0


class StoppingProgram:
    """It stands still between two calls of go_on()."""

    def __init__(self, process: subprocess.Popen[str], trace: Path) -> None:
        self.process, self.trace = process, trace
        self.counters = self._read()

    def go_on(self) -> dict[str, Any]:
        """One more step; what torch counts after it."""
        self._tell("go on")
        self.counters = self._read()
        return self.counters

    def end(self) -> None:
        """To its end, and until its trace is finished."""
        self._tell("end")
        self.process.wait(_PATIENCE_S)
        wait_for_finaliser(self.trace)

    def _tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the program has ended"
        return dict(json.loads(line))


@contextmanager
def stopping_program(
    trace: Path, program: str = "stops.py", *, environment: dict[str, str] | None = None
) -> Iterator[StoppingProgram]:
    """Starts it, at its first stop; ends it with the block."""
    argv = [sys.executable, "-m", "memtrace", "run", "--quiet", "-o", str(trace)]
    process = subprocess.Popen(
        [*argv, str(PROGRAMS / program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment or plain_environment(),
    )
    try:
        yield StoppingProgram(process, trace)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
        wait_for_finaliser(trace)


def seen_when(follower: TraceFollower, true: Callable[[LiveView], object]) -> LiveView:
    """Follows until that is so."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while True:
        view = follower.refresh(points=50, most_s=10)
        if true(view):
            return view
        assert time.monotonic() < deadline_s, view
        time.sleep(0.02)


def settled(follower: TraceFollower) -> LiveView:
    """What there is while the program stands still: everything that it did is settled soon."""
    time.sleep(0.05)
    return follower.refresh(points=50, most_s=10)
