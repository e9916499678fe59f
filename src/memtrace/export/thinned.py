"""Of a recording that `--max-disk` has thinned: the events whose allocations are still there.

Some events stay without theirs, for the sums beside them. To a reader that adds up single
allocations and frees they would be memory that is never freed, or was never allocated.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from memtrace.analyse.counters import Flags, integers
from memtrace.trace import Process, Trace

_NONE = -1


class Whole:
    """Tells the events of one process that may be added up."""

    def __init__(self, trace: Trace, process: Process) -> None:
        self._thinned = process.dropped is not None
        self._ids = np.empty(0, np.int64)
        if self._thinned:
            groups = trace.datasets["allocations"].row_groups(process.key)
            ids = [integers(group.read(["allocation_id"]), "allocation_id") for group in groups]
            self._ids = np.sort(np.concatenate([self._ids, *ids]))

    def of(self, events: pa.Table) -> Flags:
        """Which of these rows of `events` are of an allocation that is there, or of none."""
        if not self._thinned:
            return np.ones(events.num_rows, np.bool_)
        ids = integers(events, "allocation_id", missing=_NONE)
        places = np.searchsorted(self._ids, ids)
        there = np.append(self._ids, _NONE)[places] == ids
        flags: Flags = there | (ids == _NONE)
        return flags
