"""Runs of the process's order of events: backward passes, optimizer steps, recomputations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from memtrace.attribute.columns import NEVER, NONE, Columns, Int64s
from memtrace.dataset import Part, row_groups_of

KINDS = ("backward", "optimizer", "recompute")
_MARKS = tuple(f"{kind}_{end}" for kind in KINDS for end in ("begin", "end"))


@dataclass(frozen=True)
class Intervals:
    """Half-open runs of seq, sorted by their begin; they may nest and overlap.

    Attributes (each int64[n]):
        begin, end: seq; NEVER is the end of one that had not ended with the recording.
        end_time_ns: NEVER likewise.
        thread: that began it; NEVER where that is not known.
        around: place of the last begun of those before it that end after it; NONE: there is none.
        latest_end: the last end of all that began until this one did.
    """

    begin: Int64s
    end: Int64s
    end_time_ns: Int64s
    thread: Int64s
    around: Int64s
    latest_end: Int64s

    @classmethod
    def of(cls, begin: Int64s, end: Int64s, end_time_ns: Int64s, thread: Int64s) -> Intervals:
        """From arrays in any order."""
        order = np.argsort(begin, kind="stable")
        begin, end = begin[order], end[order]
        around = np.full(len(begin), NONE, np.int64)
        open_: list[int] = []
        for i, its_end in enumerate(end.tolist()):
            while open_ and end[open_[-1]] <= its_end:
                open_.pop()
            around[i] = open_[-1] if open_ else NONE
            open_.append(i)
        latest = np.maximum.accumulate(end) if len(end) else end
        return cls(begin, end, end_time_ns[order], thread[order], around, latest)

    def __len__(self) -> int:
        return len(self.begin)

    def covering(self, seq: Int64s) -> Int64s:
        """Place of the last begun that each seq lies in; NONE: it lies in none."""
        place = np.searchsorted(self.begin, seq, side="right") - 1
        rows = np.flatnonzero(place >= 0)
        while len(rows):
            rows = rows[self.end[place[rows]] <= seq[rows]]
            place[rows] = self.around[place[rows]]
            rows = rows[place[rows] >= 0]
        return place

    def next_after(self, seq: Int64s) -> Int64s:
        """Place of the first that begins after each seq; len(self): there is none."""
        return np.searchsorted(self.begin, seq, side="right")

    def value(self, of: Int64s, place: Int64s, missing: int) -> Int64s:
        """Of the interval at each place; `missing` where there is no such place."""
        if not len(self):
            return np.full(len(place), missing, np.int64)
        known = (place >= 0) & (place < len(self))
        return np.where(known, of[np.where(known, place, 0)], missing)

    def last_end(self, seq: Int64s) -> Int64s:
        """The last end of those that began at or before each seq; NONE: none did."""
        place = np.searchsorted(self.begin, seq, side="right") - 1
        return self.value(self.latest_end, place, NONE)


@dataclass
class _Open:
    begin: int
    thread: int
    task: str | None


class _Matching:
    """Begins and ends of one kind, in order, into intervals.

    An end belongs to the open begin of its task (autograd's number of the backward), where both
    name one; else to the last one of its thread. An end without a begin is not ours to invent.
    """

    def __init__(self) -> None:
        self._open: list[_Open] = []
        self._rows: list[tuple[int, int, int, int]] = []

    def begin(self, seq: int, thread: int, task: str | None) -> None:
        self._open.append(_Open(seq, thread, task))

    def end(self, seq: int, time_ns: int, thread: int, task: str | None) -> None:
        for i in range(len(self._open) - 1, -1, -1):
            mark = self._open[i]
            by_task = task is not None and mark.task is not None
            if task == mark.task if by_task else thread == mark.thread:
                del self._open[i]
                self._rows.append((mark.begin, seq, time_ns, mark.thread))
                return

    def intervals(self) -> Intervals:
        rows = self._rows + [(mark.begin, NEVER, NEVER, mark.thread) for mark in self._open]
        columns = np.array(rows, np.int64).reshape(-1, 4).T
        return Intervals.of(columns[0], columns[1], columns[2], columns[3])


def read_intervals(marks: Sequence[Part]) -> dict[str, Intervals]:
    """The intervals of each of KINDS."""
    matching = {kind: _Matching() for kind in KINDS}
    for group in row_groups_of(marks):
        columns = Columns.read(group, ["seq", "time_ns", "kind", "pool", "text", "thread_id"])
        codes = columns.codes("kind", _MARKS)
        chosen = np.flatnonzero(codes != NONE)
        seqs, times, threads = (columns.numbers(c)[chosen] for c in ("seq", "time_ns", "thread_id"))
        (text_codes, texts), (pool_codes, pools) = columns.words("text"), columns.words("pool")
        texts, pools = [*texts, ""], [*pools, ""]
        rows = zip(
            codes[chosen].tolist(), seqs.tolist(), times.tolist(), threads.tolist(),
            text_codes[chosen].tolist(), pool_codes[chosen].tolist(), strict=True,
        )  # fmt: skip
        for code, seq, time_ns, thread, text, pool in rows:
            kind = KINDS[code // 2]
            # Only a backward has a number that its end repeats.
            task = (texts[text] or pools[pool] or None) if kind == "backward" else None
            if code % 2 == 0:
                matching[kind].begin(seq, thread, task)
            else:
                matching[kind].end(seq, time_ns, thread, task)
    return {kind: matched.intervals() for kind, matched in matching.items()}
