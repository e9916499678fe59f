"""Traces of layered_program.py, each recorded once for all tests, and what is compared of them."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

import memtrace
from memtrace.replay.outcome import serve_on_host
from memtrace.replay.requests import Requests, read_requests

PROGRAM = Path(__file__).parent / "layered_program.py"
#: What operators make of Python's numbers: no test is about them.
SCALAR_BYTES = 8

_folder = tempfile.TemporaryDirectory()


@cache
def requests_of(options: str) -> Requests:
    """Of the program with these options."""
    trace = Path(_folder.name) / ("run" + options.replace(" ", "_"))
    argv = [sys.executable, "-m", "memtrace", "run", "--quiet", "-o", trace, PROGRAM]
    subprocess.run([*map(str, argv), *options.split()], check=True)
    return read_requests(memtrace.open(trace))


def without_scalars(requests: Requests) -> Requests:
    """Only what is larger than a number."""
    return requests.chosen(requests.size_bytes > SCALAR_BYTES)


def first_step(requests: Requests) -> int:
    """The place where the first call of the model begins."""
    return int(min(requests.trace.steps["start_seq"].to_pylist()))


def peak_bytes(requests: Requests) -> int:
    """From the first call of the model on."""
    outcome = serve_on_host(without_scalars(requests))
    return outcome.peak(start=first_step(requests)).total_bytes


def changes(requests: Requests, phases: tuple[str, ...]) -> list[int]:
    """Bytes asked for and freed in order, by calls of the model, of what was made in phases."""
    start = first_step(requests)
    found = without_scalars(requests)
    found = found.chosen(
        np.array([phase in phases for phase in found.rows["phase"].to_pylist()])
        & (found.start >= start)
    )
    outcome = serve_on_host(found)
    totals = outcome.curves["allocated"]
    return np.diff(totals, prepend=0).tolist()
