"""When a module ran: its calls, and what autograd did for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from operator import eq

import numpy as np

from memtrace.analyse.counters import Flags, Int64s, integers
from memtrace.replay.requests import Places, Requests, before
from memtrace.whatif.modules import flags_of, workspaces

_NO_STEP = -1
#: So far back is looked for what a run was given.
_ROWS_BACK = 4096
_FORWARD, _BACKWARD, _OPTIMIZER, _OTHER = range(4)
_PHASES = {"forward": _FORWARD, "backward": _BACKWARD, "optimizer": _OPTIMIZER}


@dataclass(frozen=True)
class Run:
    """Requests of a module that followed each other on a thread.

    Attributes:
        rows: their numbers, in order.
        step: in which call of the model, or for which; -1: not known.
        backward: whether autograd made them.
        begin: the place of the first.
        end: the place of what the thread did next: what is freed before it, the run let go.
    """

    rows: Int64s
    step: int
    backward: bool
    begin: float
    end: float

    @property
    def entry(self) -> float:
        """Right before it."""
        return float(before(np.array([self.begin]))[0])

    @property
    def leave(self) -> float:
        """Right before what comes after it."""
        return float(before(np.array([self.end]))[0])

    def contains(self, places: Places) -> Flags:
        """Which places lie in it."""
        return (places >= self.begin) & (places < self.end)


class Timeline:
    """Requests in the order of their threads: where modules ran."""

    def __init__(self, requests: Requests) -> None:
        self._start = requests.start
        self._phase = _phases(requests)
        self._step = integers(requests.rows, "step", missing=_NO_STEP)
        self._thread = integers(requests.rows, "thread_id", missing=-1)
        self._order = np.lexsort((requests.start, self._thread))
        self._at = np.empty(len(self._order), np.int64)
        self._at[self._order] = np.arange(len(self._order))
        nameless = flags_of(requests.rows, "module", lambda word: word is None)
        # What autograd adds up between requests of a module is of no module.
        self._workspaces = workspaces(requests)
        self._between = (nameless & (self._phase == _BACKWARD)) | self._workspaces
        known = np.flatnonzero(self._phase != _OTHER)
        known = known[np.argsort(requests.start[known], kind="stable")]
        changes = (np.diff(self._phase[known]) != 0) | (np.diff(self._step[known]) != 0)
        self._changes = np.append(requests.start[known[1:][changes]], np.inf)

    def runs(self, inside: Flags) -> tuple[Run, ...]:
        """The runs of a module, whose rows are `inside`, in order."""
        wanted = inside & ((self._phase == _FORWARD) | (self._phase == _BACKWARD))
        looked_at = self._order[(wanted | ~self._between)[self._order]]
        chosen = np.flatnonzero(wanted[looked_at])
        if not len(chosen):
            return ()
        rows = looked_at[chosen]
        breaks = np.diff(chosen) > 1
        for key in (self._thread, self._step, self._phase):
            breaks |= np.diff(key[rows]) != 0
        firsts = np.concatenate([[0], np.flatnonzero(breaks) + 1])
        lasts = np.concatenate([firsts[1:], [len(rows)]]) - 1
        found = [
            Run(
                rows=self._rows(first, last),
                step=int(self._step[first]),
                backward=bool(self._phase[first] == _BACKWARD),
                begin=float(self._start[first]),
                end=float(end),
            )
            for first, last, end in zip(
                rows[firsts], rows[lasts], self._ends(rows[lasts]), strict=True
            )
        ]
        return tuple(sorted(found, key=lambda run: run.begin))

    def _rows(self, first: int, last: int) -> Int64s:
        rows = self._order[self._at[first] : self._at[last] + 1]
        return rows[~self._workspaces[rows]]

    def _ends(self, rows: Int64s) -> Places:
        """The place of the next request of the thread, or of the next phase or step on any."""
        following = self._order[np.minimum(self._at[rows] + 1, len(self._order) - 1)]
        same = (following != rows) & (self._thread[following] == self._thread[rows])
        on_thread = np.where(same, self._start[following], np.inf)
        change = np.searchsorted(self._changes, self._start[rows], side="right")
        found: Places = np.minimum(
            on_thread, self._changes[np.minimum(change, len(self._changes) - 1)]
        )
        return found


def run_at(runs: Sequence[Run], places: Places) -> Int64s:
    """The number of the run that each place lies in; -1: in none."""
    begins = np.array([run.begin for run in runs], np.float64)
    ends = np.array([run.end for run in runs], np.float64)
    found = np.searchsorted(begins, places, side="right") - 1
    return np.where((found >= 0) & (places < np.append(ends, -np.inf)[found]), found, -1)


def forward_of(runs: Sequence[Run]) -> Int64s:
    """The number of the forward that each run is the backward of; of others their own.

    The backward of what was called last comes first.
    """
    found = np.arange(len(runs))
    open_calls: dict[int, list[int]] = {}
    for number, run in enumerate(runs):
        calls = open_calls.setdefault(run.step, [])
        if not run.backward:
            calls.append(number)
        elif calls:
            found[number] = calls.pop() if len(calls) > 1 else calls[-1]
    return found


class Before:
    """What was held as runs began."""

    def __init__(self, requests: Requests, without: Flags) -> None:
        """`without`: rows that are none of those looked for."""
        self._requests = requests
        self._order = np.flatnonzero(~without)
        self._order = self._order[np.argsort(requests.start[self._order], kind="stable")]
        self._starts = requests.start[self._order]

    def last(self, run: Run, size_bytes: int) -> int | None:
        """The last row of this size that was made before a run and not freed as it began."""
        end = int(np.searchsorted(self._starts, run.begin))
        rows = self._order[max(end - _ROWS_BACK, 0) : end]
        held = (self._requests.free[rows] >= run.begin) & (
            self._requests.size_bytes[rows] == size_bytes
        )
        return int(rows[held][-1]) if held.any() else None


def _phases(requests: Requests) -> Int64s:
    found = np.full(len(requests), _OTHER, np.int64)
    for word, number in _PHASES.items():
        found[flags_of(requests.rows, "phase", partial(eq, word))] = number
    return found
