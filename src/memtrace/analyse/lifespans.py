"""What lived from which instant to which, and whose it was: sums that answer exactly, at any of
these instants, what was live, and between any two, what was allocated, freed and kept.

*Cuts* are places in the order of events: state `i` is what stood after the event of seq
`cuts[i]`. What was born at `b` and died at `d` is part of the states b, b + 1 ... d - 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from memtrace.analyse.counters import Int64s
from memtrace.analyse.curve import Curve
from memtrace.analyse.owners import encode

#: What a site is told by.
TOLD = ("category", "module", "operator", "source")
_NEVER = np.iinfo(np.int64).max
_COARSEST, _FINEST = 6, 11  # 2^6 to 2^11 stretches
_PENDING_ROWS = 1 << 21


@dataclass(frozen=True)
class Cuts:
    """Places in the order of events, ascending, each once; those of the lowest rank matter most."""

    seq: Int64s
    time_ns: Int64s
    rank: Int64s

    def __len__(self) -> int:
        return len(self.seq)

    def without_rank(self, rank: int) -> Cuts:
        stay = self.rank < rank
        return Cuts(self.seq[stay], self.time_ns[stay], self.rank[stay])


def make_cuts(curve: Curve, seq: Int64s, time_ns: Int64s) -> Cuts:
    """The instants given, at rank 0, and where most was allocated in ever more stretches.

    Stretches of as much time and of as many events each: the time of a chart, and the bursts that
    a reader zooms into.
    """
    seqs, times, ranks = [seq], [time_ns], [np.zeros(len(seq), np.int64)]
    for power in range(_COARSEST, _FINEST + 1):
        for of in (curve.begin_ns, np.arange(len(curve))):
            at = _highest_of(curve, of, 1 << power)
            seqs.append(curve.most_seq[at])
            times.append(curve.most_ns[at])
            ranks.append(np.full(len(at), power - _COARSEST + 1, np.int64))
    if len(curve) <= 1 << _FINEST:
        # Few enough to have all: with one event a bin, every instant that there is.
        for part in ((curve.last_seq, curve.last_ns), (curve.most_seq, curve.most_ns)):
            seqs.append(part[0])
            times.append(part[1])
            ranks.append(np.full(len(curve), _FINEST - _COARSEST + 2, np.int64))
    all_seq, all_ns, rank = np.concatenate(seqs), np.concatenate(times), np.concatenate(ranks)
    order = np.lexsort((rank, all_seq))
    all_seq, all_ns, rank = all_seq[order], all_ns[order], rank[order]
    first = np.flatnonzero(np.diff(all_seq, prepend=all_seq[0] - 1)) if len(all_seq) else order
    low = seq.min() if len(seq) else 0
    high = seq.max() if len(seq) else _NEVER
    first = first[(all_seq[first] >= low) & (all_seq[first] <= high)]
    # Threads may stamp events a little out of order.
    return Cuts(all_seq[first], np.maximum.accumulate(all_ns[first]), rank[first])


def _highest_of(curve: Curve, of: Int64s, stretches: int) -> Int64s:
    """The bin that reached most in each stretch of equal length of an ascending column."""
    width = max(int(of[-1] - of[0]) // stretches, 1)
    stretch = (of - of[0]) // width
    order = np.lexsort((np.arange(len(of)), -curve.most_bytes, stretch))
    first = np.flatnonzero(np.diff(stretch[order], prepend=-1))
    highest: Int64s = order[first]
    return highest


@dataclass(frozen=True)
class Lifespans:
    """Sums over allocations of one site that were born and died between the same cuts.

    int64, sorted by `born`, `died`, `site`; `died` is len(cuts) for what outlived the last cut.
    """

    cuts: Cuts
    site: Int64s
    born: Int64s
    died: Int64s
    block_bytes: Int64s
    blocks: Int64s

    def __len__(self) -> int:
        return len(self.site)

    def live_bytes(self, cut: int) -> int:
        """What was live at a cut."""
        live = (self.born <= cut) & (self.died > cut)
        return int(self.block_bytes[live].sum())


class Sites:
    """Every category, module, operator and line that occur together, numbered as they are found."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str | None, ...], int] = {}
        #: By number: category, module, operator, source.
        self.rows: list[tuple[str | None, ...]] = []

    def numbers(self, table: pa.Table) -> Int64s:
        """The site of each row; `table` has the columns TOLD."""
        key = np.zeros(table.num_rows, np.int64)
        columns = [encode(table, name) for name in TOLD]
        for codes, names in columns:
            key = key * max(len(names), 1) + codes
        distinct, where, each = np.unique(key, return_index=True, return_inverse=True)
        found = np.empty(len(distinct), np.int64)
        for place, row in enumerate(where.tolist()):
            words = tuple(names[codes[row]] for codes, names in columns)
            if words not in self._numbers:
                self._numbers[words] = len(self.rows)
                self.rows.append(words)
            found[place] = self._numbers[words]
        sites: Int64s = found[each]
        return sites


class LifespanSums:
    """Adds allocations up; gives up cuts of the highest rank while there are too many rows."""

    def __init__(self, cuts: Cuts, most_rows: int) -> None:
        self._cuts = cuts
        self._most_rows = most_rows
        self._keys = np.empty((3, 0), np.int64)  # born, died, site
        self._sums = np.empty((2, 0), np.int64)
        self._pending: list[tuple[Int64s, Int64s]] = []
        self._pending_rows = 0

    def add(self, site: Int64s, alloc_seq: Int64s, free_seq: Int64s, block_bytes: Int64s) -> None:
        """Allocations; those that no state and no stretch knows of are left out."""
        last = len(self._cuts)
        born = np.searchsorted(self._cuts.seq, alloc_seq, side="left")
        died = np.searchsorted(self._cuts.seq, free_seq, side="left")
        # Born after the last cut, or gone at the first.
        inside = (born < last) & (died > 0)
        keys = np.stack([born[inside], died[inside], site[inside]])
        sums = np.stack([block_bytes[inside], np.ones(int(inside.sum()), np.int64)])
        self._pending.append(_summed(keys, sums))
        self._pending_rows += self._pending[-1][0].shape[1]
        if self._pending_rows > _PENDING_ROWS:
            self._settle()

    def _settle(self) -> None:
        keys = np.concatenate([self._keys, *(keys for keys, _ in self._pending)], axis=1)
        sums = np.concatenate([self._sums, *(sums for _, sums in self._pending)], axis=1)
        self._keys, self._sums = _summed(keys, sums)
        self._pending, self._pending_rows = [], 0
        while self._keys.shape[1] > self._most_rows and self._cuts.rank.any():
            fewer = self._cuts.without_rank(int(self._cuts.rank.max()))
            # A cut that is given up becomes the next one; "never" stays never.
            place = np.append(np.searchsorted(fewer.seq, self._cuts.seq, "left"), len(fewer))
            self._keys[:2] = place[self._keys[:2]]
            stay = self._keys[0] < len(fewer)
            self._cuts = fewer
            self._keys, self._sums = _summed(self._keys[:, stay], self._sums[:, stay])

    def lifespans(self) -> Lifespans:
        self._settle()
        born, died, site = self._keys
        return Lifespans(self._cuts, site, born, died, *self._sums)


def _summed(keys: Int64s, sums: Int64s) -> tuple[Int64s, Int64s]:
    """Rows with the same keys as one, in the order of keys."""
    if not keys.shape[1]:
        return keys, sums
    # As one number: cuts are some thousands, so there is room for 2^35 sites.
    born, died, site = keys
    key = (born * (died.max() + 1) + died) * (site.max() + 1) + site
    order = np.argsort(key, kind="stable")
    first = np.flatnonzero(np.diff(key[order], prepend=-1))
    return keys[:, order[first]], np.add.reduceat(sums[:, order], first, axis=1)
