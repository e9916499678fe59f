"""Forward calls and their backward: what autograd allocates for a call, and what it keeps."""

from __future__ import annotations

import numpy as np

from memtrace.analyse.counters import Int64s
from memtrace.replay.requests import NEVER, Requests
from memtrace.whatif.operator_calls import NONE, OperatorCalls


class Passes:
    """Looks up rows of the backward by the root calls of the forward."""

    def __init__(self, requests: Requests, calls: OperatorCalls) -> None:
        self._start, self._free = requests.start, requests.free
        self._by_free = np.argsort(self._free, kind="stable")
        self._free_ascending = self._free[self._by_free]
        self._backward_starts = self._start[calls.phase.are({"backward"})]
        belongs = np.flatnonzero(calls.forward_root != NONE)
        order = np.argsort(calls.forward_root[belongs], kind="stable")
        self._belonging = belongs[order]
        self._belonging_root = calls.forward_root[self._belonging]

    @property
    def trained(self) -> bool:
        """Whether there is any backward."""
        return bool(len(self._backward_starts))

    def backward_of(self, roots: Int64s) -> Int64s:
        """Rows that the backward of these root calls allocates, ascending."""
        wanted = np.unique(roots[roots != NONE])
        first = np.searchsorted(self._belonging_root, wanted, "left")
        last = np.searchsorted(self._belonging_root, wanted, "right")
        parts = [self._belonging[a:b] for a, b in zip(first, last, strict=True)]
        return np.sort(np.concatenate(parts)) if parts else np.zeros(0, np.int64)

    def window(self, roots: Int64s) -> tuple[float, float] | None:
        """Between which places that backward runs; None: there is none."""
        rows = self.backward_of(roots)
        return None if not len(rows) else (float(self._start[rows[0]]), self.next_start(rows[-1]))

    def kept_for(self, roots: Int64s, before_row: int) -> Int64s:
        """Rows from before a row that go as that backward runs: it was what kept them."""
        window = self.window(roots)
        if window is None:
            return np.zeros(0, np.int64)
        first = np.searchsorted(self._free_ascending, window[0], "left")
        last = np.searchsorted(self._free_ascending, min(window[1], 1e300), "right")
        rows = self._by_free[first:last]
        kept: Int64s = rows[self._start[rows] < self._start[before_row]]
        return kept

    def next_backward(self, place: float) -> float:
        """Where the next backward allocates for the first time; NEVER."""
        found = np.searchsorted(self._backward_starts, place)
        return float(self._backward_starts[found]) if found < len(self._backward_starts) else NEVER

    def outlives_forward(self, row: int) -> bool:
        """Whether the row is still there when the next backward runs."""
        return bool(self.next_backward(float(self._start[row])) <= self._free[row])

    def next_start(self, row: int) -> float:
        """The place of the next allocation; NEVER."""
        return float(self._start[row + 1]) if row + 1 < len(self._start) else NEVER
