"""Programs that run in a dtype of choice: their recordings, and the peak of their steps."""

from __future__ import annotations

from pathlib import Path

import memtrace
from memtrace.replay.outcome import serve_on_host
from memtrace.replay.requests import Requests, read_requests
from program_runs import recorded


def requests_of_run(path: Path, program: Path, dtype: str, mode: str) -> Requests:
    """Of `program DTYPE MODE`, recorded into `path` unless that is there."""
    if not path.exists():
        shown = recorded(path, program, dtype, mode)
        assert shown.status == 0, shown.err.decode()[-500:]
    return read_requests(memtrace.open(path), device="cpu")


def peak_of_steps(requests: Requests) -> int:
    """Bytes, from the beginning of the first step on."""
    first = float(min(requests.trace.steps["start_seq"].to_pylist()))
    return serve_on_host(requests).peak(start=first).total_bytes
