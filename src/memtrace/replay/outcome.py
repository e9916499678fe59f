"""What became of requests that were replayed: curves, peaks, failures, and what was held when."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from memtrace.analyse.counters import Int64s
from memtrace.replay.requests import Failure, Places, Requests


@dataclass(frozen=True)
class Highest:
    """The largest value of a measure, and the place that first reached it."""

    of: str
    total_bytes: int
    place: float


@dataclass(frozen=True)
class Outcome:
    """Requests as an allocator served them.

    Attributes:
        block_bytes: what was held for each row of `requests`; 0 where it was not served.
        places: ascending; where a total changed.
        curves: measure -> its total, in bytes, after what happened at each of `places`: allocated
            and requested; on an accelerator active and reserved too.
        failures: requests that could not be served.
        caveats: where this is not exact, and why; one line each.
    """

    requests: Requests
    block_bytes: Int64s
    places: Places
    curves: dict[str, Int64s]
    failures: tuple[Failure, ...] = ()
    caveats: tuple[str, ...] = field(default=())

    def peak(
        self, of: str = "allocated", *, start: float = -np.inf, end: float = np.inf
    ) -> Highest:
        """The largest total in a window of places, what stood as it began included."""
        first, last = np.searchsorted(self.places, [start, end])
        first = max(int(first) - 1, 0) if np.isfinite(start) else 0
        window = self.curves[of][first : max(int(last), first + 1)]
        if not len(window):
            return Highest(of, 0, start)
        at = int(window.argmax())
        return Highest(of, int(window[at]), float(self.places[first + at]))

    def held(self, place: float, *, of: str = "allocated") -> pa.Table:
        """The rows that a measure counted right after a place, with their `bytes`."""
        live = self.requests.live_at(place, of=of) & (self.block_bytes > 0)
        each = self.requests.size_bytes if of == "requested" else self.block_bytes
        return self.requests.held(live, each)


def serve_on_host(requests: Requests) -> Outcome:
    """Requests of the CPU, where every one is served with what it asks for."""
    size = requests.size_bytes
    ended = np.isfinite(requests.free)
    places = np.concatenate([requests.start, requests.free[ended]])
    deltas = np.concatenate([size, -size[ended]])
    order = np.argsort(places, kind="stable")
    totals = np.cumsum(deltas[order])
    return Outcome(
        requests=requests,
        block_bytes=size,
        places=places[order],
        curves={"allocated": totals, "requested": totals},
        failures=requests.failures,
    )
