"""Operator calls, looked up by id: when they ended, and which call they were made by."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock

import numpy as np

from memtrace.attribute.columns import NEVER, NONE, Columns, Flags, Int64s, places_of
from memtrace.dataset import Part, RowGroup, row_groups_of

#: Row groups that are kept decoded: memory of a part's calls lies in few.
_GROUPS_KEPT = 8
#: Calls nest less deeply, unless the rows are damaged.
_MOST_DEEP = 512
_COLUMNS = ("call_id", "parent_call_id", "end_time_ns")


class Calls:
    """The dataset `operators`. Only row groups that may hold a call are read; threads may share it.

    Calls that a user's code is (record_function) have no end here: they are no one operator's.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self._groups = list(row_groups_of(parts))
        bounds = [group.bounds("call_id") for group in self._groups]
        self._low = [NONE if b is None or b.low is None else b.low for b in bounds]
        self._high = [NEVER if b is None or b.high is None else b.high for b in bounds]
        self._kept: OrderedDict[int, dict[str, Int64s]] = OrderedDict()
        self._lock = Lock()

    def find(self, ids: Int64s) -> dict[str, Int64s]:
        """Of each id (sorted): parent_call_id, end_time_ns; NEVER where not known."""
        found = {name: np.full(len(ids), NEVER, np.int64) for name in _COLUMNS[1:]}
        for i in range(len(self._groups)):
            first = np.searchsorted(ids, self._low[i], side="left")
            last = np.searchsorted(ids, self._high[i], side="right")
            if first == last:
                continue
            rows = self._read(i)
            place = places_of(rows["call_id"], ids[first:last])
            known = np.flatnonzero(place != NONE)
            for name, column in found.items():
                column[first + known] = rows[name][place[known]]
        return found

    def made_inside(self, ids: Int64s) -> tuple[Int64s, Int64s]:
        """The calls that these (sorted) made themselves and that left memory behind.

        Returns the caller and the first event of each.
        """
        callers, starts = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for group in self._groups:
            columns = Columns.read(
                group, ["parent_call_id", "start_seq", "allocated_bytes", "freed_bytes"]
            )
            parents = columns.numbers("parent_call_id")
            chosen = places_of(ids, parents) != NONE
            chosen &= columns.numbers("allocated_bytes") > columns.numbers("freed_bytes")
            callers.append(parents[chosen])
            starts.append(columns.numbers("start_seq")[chosen])
        return np.concatenate(callers), np.concatenate(starts)

    def died_inside(self, ids: Int64s, free_time_ns: Int64s) -> Flags:
        """Whether memory was freed before the call that made it, or one around it, ended.

        Args:
            ids: the innermost call of each allocation; NEVER: none.
            free_time_ns: NEVER: not freed.
        """
        inside = np.zeros(len(ids), np.bool_)
        rows = np.flatnonzero((ids != NEVER) & (free_time_ns != NEVER))
        current = ids[rows]
        for _ in range(_MOST_DEEP):
            if not len(rows):
                break
            unique, place = np.unique(current, return_inverse=True)
            found = self.find(unique)
            end, parent = found["end_time_ns"][place], found["parent_call_id"][place]
            done = (end != NEVER) & (free_time_ns[rows] <= end)
            inside[rows[done]] = True
            climbs = ~done & (parent != NEVER)
            rows, current = rows[climbs], parent[climbs]
        return inside

    def _read(self, i: int) -> dict[str, Int64s]:
        with self._lock:
            kept = self._kept.get(i)
            if kept is not None:
                self._kept.move_to_end(i)
                return kept
        rows = _sorted_by_id(self._groups[i])
        with self._lock:
            self._kept[i] = rows
            while len(self._kept) > _GROUPS_KEPT:
                self._kept.popitem(last=False)
        return rows


def _sorted_by_id(group: RowGroup) -> dict[str, Int64s]:
    columns = Columns.read(group, [*_COLUMNS, "scope"])
    ids = columns.numbers("call_id")
    order = np.argsort(ids, kind="stable")
    rows = {name: columns.numbers(name)[order] for name in _COLUMNS}
    by_user = columns.codes("scope", ["user_scope"])[order] != NONE
    rows["end_time_ns"] = np.where(by_user, NEVER, rows["end_time_ns"])
    return rows
