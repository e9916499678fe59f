"""Runs a program twice, by plain python and under `memtrace run`, to compare all that shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAMS = Path(__file__).parent / "programs" / "run"
_TIMEOUT_S = 120
_ORPHANS_S = 15.0  # the finaliser waits 10 s for children that outlive the program


@dataclass(frozen=True)
class Shown:
    """What a run leaves to see: status (negative: the signal), standard output and error."""

    status: int
    out: bytes
    err: bytes


def python(*words: str | Path, **kwargs: Any) -> Shown:
    """Plain python with these words."""
    return _run([sys.executable, *map(str, words)], **kwargs)


def memtrace(*words: str | Path, python_options: Sequence[str] = (), **kwargs: Any) -> Shown:
    """`python -m memtrace` with these words."""
    return _run([sys.executable, *python_options, "-m", "memtrace", *map(str, words)], **kwargs)


def recorded(
    trace: Path, *words: str | Path, python_options: Sequence[str] = (), **kwargs: Any
) -> Shown:
    """`memtrace run` of these words, quietly, into `trace`, which is complete then."""
    shown = memtrace(
        "run", "--quiet", "-o", trace, *words, python_options=python_options, **kwargs
    )  # fmt: skip
    wait_for_finaliser(trace)
    return shown


def without_trackers_race(run: Callable[[int], Shown]) -> Shown:
    """`run(0)`, or the first of `run(1)` ... `run(4)` after it that is free of a race of Python's.

    A queue's semaphore that another thread lets go of while the program ends may be unlinked and
    not yet unregistered: multiprocessing's resource tracker then warns of a leak. Plain Python
    does in one of fifteen runs on a busy machine; what warned every time would still be seen.
    """
    for number in range(5):
        shown = run(number)
        if b"resource_tracker" not in shown.err:
            break
    return shown


def wait_for_finaliser(trace: Path) -> None:
    """Until it has done all it will do: it lets go of standard error before, with the answer."""
    deadline_s = time.monotonic() + _ORPHANS_S
    while (trace / "spool" / "end.fifo").exists() and time.monotonic() < deadline_s:
        time.sleep(0.02)


def _run(argv: list[str], **kwargs: Any) -> Shown:
    kwargs.setdefault("stdin", subprocess.DEVNULL)
    if "input" in kwargs:
        del kwargs["stdin"]
    kwargs.setdefault("stdout", subprocess.PIPE)
    kwargs.setdefault("env", plain_environment())
    # The finaliser holds standard error until it has answered: this waits for both.
    done = subprocess.run(argv, stderr=subprocess.PIPE, timeout=_TIMEOUT_S, check=False, **kwargs)
    return Shown(
        done.returncode, without_addresses(done.stdout or b""), without_addresses(done.stderr)
    )


def without_addresses(text: bytes) -> bytes:
    """The same in two runs: addresses and thread ids left out."""
    return re.sub(rb"0x[0-9a-f]{6,}", b"0x", text)


def processes(trace: Path) -> list[dict[str, Any]]:
    """The rows of `processes` of a finished trace, in the order of their start."""
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = []
    for part in sorted(trace.glob("processes/*/*.parquet")):
        rows += pq.read_table(part, partitioning=None).to_pylist()
    return sorted(rows, key=lambda row: row["clock_origin_unix_ns"])


def main_process(trace: Path) -> dict[str, Any]:
    """The row of the program itself."""
    (row,) = (row for row in processes(trace) if row["start_method"] == "main")
    return row


def plain_environment() -> dict[str, str]:
    """This environment without what would record a child."""
    left_out = ("MEMTRACE_RECORD", "MEMTRACE_OPTIONS", "PYTHONUNBUFFERED")
    return {k: v for k, v in os.environ.items() if k not in left_out}
