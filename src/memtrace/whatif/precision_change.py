"""What another precision does to requests besides sizes: copies, other kernels, other lives."""

from __future__ import annotations

import numpy as np

from memtrace.analyse.counters import Flags, Int64s
from memtrace.replay.requests import Requests, before
from memtrace.whatif.operator_calls import OperatorCalls
from memtrace.whatif.passes import Passes

#: The least that an allocation which is added lives.
_MOMENT = 1 / 64


class PrecisionChange:
    """The program as recorded, and what is found to be otherwise in half precision.

    Attributes:
        float32: rows that are float32 as recorded.
        stay: rows that remain so.
        gone: rows that are no more: another kernel runs.
        free: of every row, the place of its end.
        sizes_bytes: row -> its size, where that is neither what it was nor half of it.
        parts: what was found, and how often.
    """

    def __init__(self, requests: Requests, calls: OperatorCalls, float32: Flags) -> None:
        self.requests, self.calls, self.float32 = requests, calls, float32
        self.passes = Passes(requests, calls)
        self.stay = np.zeros(len(requests), np.bool_)
        self.gone = np.zeros(len(requests), np.bool_)
        self.free = requests.free.copy()
        self.sizes_bytes: dict[int, int] = {}
        self.parts: dict[str, int] = {}
        self._like: list[int] = []
        self._size_bytes: list[int] = []
        self._start: list[float] = []
        self._end: list[float] = []

    def start(self, row: int) -> float:
        """Of an allocation."""
        return float(self.requests.start[row])

    def size(self, row: int) -> int:
        """In float32, bytes."""
        return int(self.requests.size_bytes[row])

    def large(self, rows: Int64s) -> Int64s:
        """Those that are no numbers of Python's."""
        return rows[self.requests.size_bytes[rows] > 8]

    def count(self, part: str) -> None:
        """One more of a part."""
        self.parts[part] = self.parts.get(part, 0) + 1

    def add(self, like: int, size_bytes: int, start: float, end: float) -> None:
        """An allocation like a row's, between two places."""
        self._like.append(like)
        self._size_bytes.append(size_bytes)
        self._start.append(start)
        self._end.append(max(end, start + _MOMENT))

    def resize(self, row: int, size_bytes: int) -> None:
        """A row has this size then."""
        self.sizes_bytes[row] = size_bytes

    def keep(self, rows: Int64s) -> None:
        """Rows of the forward remain float32, and what their backward allocates."""
        self.stay[rows] = True
        self.stay[self.passes.backward_of(self.calls.root[rows])] = True

    def release_inputs(self, rows: Int64s, end: float) -> None:
        """What autograd kept for these rows' calls goes at a place: it keeps their copies now."""
        kept = self.passes.kept_for(self.calls.root[rows], int(rows[0]))
        kept = kept[self.float32[kept]]
        self.free[kept] = np.minimum(self.free[kept], end)

    def cast_result(self, row: int, end: float) -> None:
        """A row is the cast result from now on; what is cast is there besides, until a place."""
        self.stay[row] = False
        self.add(row, self.size(row), float(before(self.requests.start[row])), end)

    def cast_gradient(self, row: int) -> None:
        """A gradient is cast when all else of its node has gone: before what comes next."""
        place = self.passes.next_start(row) - 0.25
        if place < self.free[row]:
            self.cast_at(row, place)

    def cast_at(self, row: int, place: float) -> None:
        """A row stays float32 until a place, and is cast there for the rest of its life."""
        self.add(row, self.size(row) // 2, place, float(self.free[row]))
        self.free[row] = place + 0.125

    def applied(self, requests: Requests) -> Requests:
        """Requests of other sizes with all this."""
        requests = requests.moved(free=self.free).added(
            np.array(self._like, np.int64),
            size_bytes=np.array(self._size_bytes, np.int64),
            start=np.array(self._start),
            free=np.array(self._end),
            category="temporary",
        )
        return requests.chosen(np.concatenate([~self.gone, np.ones(len(self._like), np.bool_)]))


def runs(keys: Int64s, rows: Int64s) -> list[Int64s]:
    """Rows, split where the key changes."""
    return np.split(rows, np.flatnonzero(np.diff(keys)) + 1) if len(rows) else []
