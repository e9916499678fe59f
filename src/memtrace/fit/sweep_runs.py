"""Runs a program once for each value, recorded, into traces beside each other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from memtrace.errors import MemtraceError
from memtrace.fit.sweep import MOST, Run, read_run
from memtrace.trace import SPOOL, open_trace

#: What a program that was interrupted, or whose trace is being finished, is waited for.
_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Plan:
    """What is to be run.

    Attributes:
        values: dimension -> what it is set to, one after the other.
        variables: dimension -> the environment variable that says it to the program.
        words: what follows `memtrace run`: its options, the program and its arguments, in which
            "{batch}" stands for the batch size, and so on.
    """

    values: dict[str, tuple[int, ...]]
    variables: dict[str, str]
    words: tuple[str, ...]
    folder: Path
    force: bool
    device: str | None = None

    def combinations(self) -> list[dict[str, int]]:
        """Every run's values, the last dimension fastest."""
        return [dict(zip(self.values, run, strict=True)) for run in product(*self.values.values())]

    def trace_path(self, values: dict[str, int]) -> Path:
        """Where a run is recorded."""
        name = ",".join(f"{dimension}={value}" for dimension, value in values.items())
        return self.folder / f"{name}.memtrace"


def check(plan: Plan) -> None:
    """Before anything is run.

    Raises:
        MemtraceError: a trace would be in the way.
    """
    for values in plan.combinations():
        path = plan.trace_path(values)
        if not plan.force and os.path.lexists(path):
            raise MemtraceError(
                f"{path} exists: give another folder with -o, or replace its traces with --force"
            )


def run_all(plan: Plan, say: Callable[[str], None]) -> Iterator[Run]:
    """Runs them one after the other; each as soon as it has ended.

    A program that fails is a Run that says so. Ctrl-C ends the program and then the sweep: what it
    recorded is a last Run.

    Raises:
        KeyboardInterrupt: after that.
        MemtraceError: a program could not be started.
    """
    combinations = plan.combinations()
    for number, values in enumerate(combinations, 1):
        told = ", ".join(f"{dimension} {value:,}" for dimension, value in values.items())
        say(f"{told} ({number:,} of {len(combinations):,})")
        status, interrupted = _run(plan, values)
        path = plan.trace_path(values)
        if not path.is_dir():
            if interrupted:
                raise KeyboardInterrupt
            raise MemtraceError(f"nothing was recorded for {told}: what the run said is above")
        _wait_until_finished(path)
        yield _read(plan, values, path, "interrupted" if interrupted else _ending(status))
        if interrupted:
            raise KeyboardInterrupt


def _run(plan: Plan, values: dict[str, int]) -> tuple[int, bool]:
    words = list(plan.words)
    environ = dict(os.environ)
    for dimension, value in values.items():
        words = [word.replace("{" + dimension + "}", str(value)) for word in words]
        environ[plan.variables[dimension]] = str(value)
    force = ["--force"] if plan.force else []
    argv = [sys.executable, "-m", "memtrace", "run", "--quiet", *force]
    argv += ["-o", str(plan.trace_path(values)), *words]
    # Standard output is the answer's; the program's goes where one can see it all the same.
    with subprocess.Popen(argv, env=environ, stdin=subprocess.DEVNULL, stdout=_stderr()) as child:
        try:
            return child.wait(), False
        except KeyboardInterrupt:
            return _ended(child), True


def _ended(child: subprocess.Popen[bytes]) -> int:
    """The terminal has sent Ctrl-C to the program too; it may have something to put in order."""
    try:
        return child.wait(_PATIENCE_S / 6)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        child.send_signal(signal.SIGTERM)
    try:
        return child.wait(_PATIENCE_S / 6)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        child.kill()
        return child.wait()


def _stderr() -> int:
    try:
        return sys.stderr.fileno()
    except (OSError, ValueError):
        return subprocess.DEVNULL


def _wait_until_finished(path: Path) -> None:
    """The finaliser of a program that a signal has ended works on beside us."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while (path / SPOOL).exists() and time.monotonic() < deadline_s:
        time.sleep(0.02)


def _read(plan: Plan, values: dict[str, int], path: Path, failed: str) -> Run:
    try:
        return read_run(open_trace(path), values, failed=failed, device=plan.device)
    except MemtraceError as error:
        return Run(values, path, f"{failed}: {error}" if failed else str(error), False, (), ())


def _ending(status: int) -> str:
    if status < 0:
        try:
            return f"killed by {signal.Signals(-status).name}"
        except ValueError:
            return f"killed by signal {-status}"
    return f"exit status {status}" if status else ""


def values_of(text: str, dimension: str) -> tuple[int, ...]:
    """What --batch or --sequence was given: whole numbers with commas, each once, ascending.

    Raises:
        MemtraceError: it is something else.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() and 0 < int(word) <= MOST for word in words):
        raise MemtraceError(f"--{dimension} {text}: write whole numbers from 1, such as 1,2,4,8")
    return tuple(sorted({int(word) for word in words}))
