"""How much each category, module, operator and line held over time: what a stacked chart draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memtrace.analyse.counters import Int64s
from memtrace.analyse.lifespans import TOLD, Cuts, Sites

#: Groups that are told of by name; the others together are one.
MOST_LAYERS = 24
# Groups that are summed one by one, in the order in which they are first met.
_MOST_GROUPS = 1024


@dataclass(frozen=True)
class Layers:
    """Groups of one column.

    Attributes:
        names: of the groups, those that held most first; None: what has no such word.
        size_bytes: int64[groups, cuts]; after the named ones, where there are more, all others.
        others: how many those are; at least, where there are very many.
    """

    names: tuple[str | None, ...]
    size_bytes: Int64s
    others: int


class LayerSums:
    """Adds allocations up by every column of TOLD, at each of many cuts."""

    def __init__(self, cuts: Cuts, sites: Sites) -> None:
        self.cuts = cuts
        self._sites = sites
        self._columns = [_Column(len(cuts)) for _ in TOLD]
        self._known = 0

    def add(self, site: Int64s, alloc_seq: Int64s, free_seq: Int64s, block_bytes: Int64s) -> None:
        """Allocations; those that no cut sees are passed over."""
        born = np.searchsorted(self.cuts.seq, alloc_seq, side="left")
        died = np.searchsorted(self.cuts.seq, free_seq, side="left")
        seen = born < died
        site, born, died, block_bytes = site[seen], born[seen], died[seen], block_bytes[seen]
        rows = self._sites.rows
        for place, column in enumerate(self._columns):
            column.learn([row[place] for row in rows[self._known :]])
            column.add(site, born, died, block_bytes)
        self._known = len(rows)

    def layers(self, peak_cut: int) -> dict[str, Layers]:
        """By the name of the column. `peak_cut`: what is large there is told of."""
        return {
            name: column.layers(peak_cut) for name, column in zip(TOLD, self._columns, strict=True)
        }


class _Column:
    def __init__(self, cuts: int) -> None:
        self._groups: dict[str | None, int] = {}
        self._group_of: list[int] = []
        # What changes at each cut, and after the last one.
        self._changes = np.zeros((16, cuts + 1), np.int64)
        self._rest = np.zeros(cuts + 1, np.int64)

    def learn(self, words: list[str | None]) -> None:
        """The words of sites that are new."""
        for word in words:
            self._group_of.append(self._groups.setdefault(word, len(self._groups)))

    def add(self, site: Int64s, born: Int64s, died: Int64s, size_bytes: Int64s) -> None:
        group = np.array(self._group_of, np.int64)[site] if len(site) else site
        told = min(len(self._groups), _MOST_GROUPS)
        while len(self._changes) < told:
            self._changes = np.concatenate([self._changes, np.zeros_like(self._changes)])
        named = group < _MOST_GROUPS
        np.add.at(self._changes, (group[named], born[named]), size_bytes[named])
        np.subtract.at(self._changes, (group[named], died[named]), size_bytes[named])
        np.add.at(self._rest, born[~named], size_bytes[~named])
        np.subtract.at(self._rest, died[~named], size_bytes[~named])

    def layers(self, peak_cut: int) -> Layers:
        told = min(len(self._groups), _MOST_GROUPS)
        held = np.cumsum(self._changes[:told, :-1], axis=1)
        rest = np.cumsum(self._rest[:-1])
        weight = held.mean(axis=1) + held[:, peak_cut]
        order = np.argsort(-weight, kind="stable")
        order = order[held[order].any(axis=1)]
        shown, others = order[:MOST_LAYERS], order[MOST_LAYERS:]
        rest = rest + held[others].sum(axis=0)
        number = len(others) + max(len(self._groups) - _MOST_GROUPS, 0)
        words = list(self._groups)
        rows = [held[shown], rest[np.newaxis]] if number else [held[shown]]
        return Layers(tuple(words[group] for group in shown.tolist()), np.concatenate(rows), number)
