"""When a module ran: its calls, and what autograd did for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from operator import eq

import numpy as np

from memtrace.analyse.counters import Flags, Int64s, integers
from memtrace.replay.requests import Places, Requests, before
from memtrace.whatif.modules import flags_of

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


def runs_of(requests: Requests, inside: Flags) -> tuple[Run, ...]:
    """The runs of a module, in order; what autograd adds up between them is of no module.

    Args:
        inside: the rows that are the module's.
    """
    phase = phases(requests)
    step = integers(requests.rows, "step", missing=_NO_STEP)
    thread = integers(requests.rows, "thread_id", missing=-1)
    nameless = flags_of(requests.rows, "module", lambda word: word is None)
    wanted = inside & ((phase == _FORWARD) | (phase == _BACKWARD))
    between = nameless & (phase == _BACKWARD)

    order = np.lexsort((requests.start, thread))
    skipped = order[wanted[order] | ~between[order]]
    chosen = np.flatnonzero(wanted[skipped])
    if not len(chosen):
        return ()
    rows = skipped[chosen]
    breaks = np.diff(chosen) > 1
    for key in (thread, step, phase):
        breaks |= np.diff(key[rows]) != 0
    firsts = np.concatenate([[0], np.flatnonzero(breaks) + 1])
    lasts = np.concatenate([firsts[1:], [len(rows)]]) - 1

    at = np.empty(len(order), np.int64)
    at[order] = np.arange(len(order))
    ends = _ends(requests, order, at[rows[lasts]], phase, step)
    found = [
        Run(
            rows=order[at[rows[first]] : at[rows[last]] + 1],
            step=int(step[rows[first]]),
            backward=bool(phase[rows[first]] == _BACKWARD),
            begin=float(requests.start[rows[first]]),
            end=float(end),
        )
        for first, last, end in zip(firsts, lasts, ends, strict=True)
    ]
    return tuple(sorted(found, key=lambda run: run.begin))


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


def phases(requests: Requests) -> Int64s:
    """Of each row, as a number: forward, backward, optimizer, other."""
    found = np.full(len(requests), _OTHER, np.int64)
    for word, number in _PHASES.items():
        found[flags_of(requests.rows, "phase", partial(eq, word))] = number
    return found


def _ends(requests: Requests, order: Int64s, lasts: Int64s, phase: Int64s, step: Int64s) -> Places:
    """The place of the next request of the thread, or of the next phase or step on any."""
    row = order[lasts]
    thread = integers(requests.rows, "thread_id", missing=-1)
    following = order[np.minimum(lasts + 1, len(order) - 1)]
    same = (lasts + 1 < len(order)) & (thread[following] == thread[row])
    on_thread = np.where(same, requests.start[following], np.inf)

    known = np.flatnonzero(phase != _OTHER)
    known = known[np.argsort(requests.start[known], kind="stable")]
    changes = np.flatnonzero((np.diff(phase[known]) != 0) | (np.diff(step[known]) != 0)) + 1
    starts = np.append(requests.start[known][changes], np.inf)
    found: Places = np.minimum(
        on_thread, starts[np.searchsorted(starts, requests.start[row], "right")]
    )
    return found
