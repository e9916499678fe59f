"""Requests as an allocator serves them, and the least capacity with which it can: the seam to it."""

from __future__ import annotations

from dataclasses import dataclass

from memtrace.analyse.counters import highest
from memtrace.replay.outcome import Outcome, serve_on_host
from memtrace.replay.requests import Requests

_ROUND_BYTES = 512


@dataclass(frozen=True)
class Served:
    """What a program needs of a device.

    Attributes:
        outcome: with as much memory as it likes.
        low_bytes: with less it cannot complete.
        high_bytes: with so much it does. The two are the same where that is known exactly.
        caveats: what is not counted, and why the two differ; one line each.
    """

    outcome: Outcome
    low_bytes: int
    high_bytes: int
    caveats: tuple[str, ...] = ()


def serve(requests: Requests, *, on_gpu: bool) -> Served:
    """Serves requests on the device they were made of, or those of the CPU as if of a GPU."""
    if requests.on_cpu and not on_gpu:
        outcome = serve_on_host(requests)
        peak = outcome.peak().total_bytes
        return Served(outcome, peak, peak)
    blocks = -(-requests.size_bytes // _ROUND_BYTES) * _ROUND_BYTES
    outcome = serve_on_host(requests.resized(blocks))
    peak = outcome.peak().total_bytes
    recorded = None
    if not requests.changed:
        recorded = highest(
            requests.trace, process=requests.process.key, device=requests.device, of="reserved"
        )
    most = peak if recorded is None else max(peak, recorded.total_bytes)
    return Served(outcome, peak, most)
