"""Who asked for memory, as the frames of a snapshot: operator, module, then the stack.

A site is a distinct (stack, operator, module): what memory_viz can show of an allocation. Each
allocation's site is kept as a number, 4 bytes an allocation; frames are written once.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from memtrace.analyse.counters import equals, integers, may_hold
from memtrace.analyse.failures import asked_by_seq
from memtrace.analyse.stack import Frame, stacks_by_id
from memtrace.trace import Trace

#: The file of a frame that names no line but an operator or a module; the import knows them.
OPERATOR_FILE = "<operator>"
MODULE_FILE = "<module>"
NO_SITE = 0  # outside of everything
UNCOUNTED = -1  # memory that the allocator's totals do not count
_WORDS = ("operator", "module", "module_class")

Int32s = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Site:
    """What asked: 0 and "" where it is not known."""

    stack_id: int = 0
    operator: str = ""
    module: str = ""
    module_class: str = ""


class Sites:
    """The sites of one process's allocations on some devices."""

    def __init__(self, trace: Trace, process: str, devices: Collection[str]) -> None:
        self.distinct = [Site()]
        self._numbers = {self.distinct[0]: NO_SITE}
        self._by_allocation: Int32s = np.zeros(1, np.int32)
        columns = ["allocation_id", "device", "origin", "stack_id", *_WORDS]
        for group in trace.datasets["allocations"].row_groups(process):
            table = group.read(columns)
            chosen = np.zeros(table.num_rows, np.bool_)
            for device in devices:
                chosen |= equals(table, "device", device)
            self._add(table.filter(pa.array(chosen)))
        self.of_failures = self._failures(trace, process)

    def of(self, allocation_ids: npt.NDArray[np.int64]) -> Int32s:
        """The number of each allocation's site; NO_SITE for ids that are not known."""
        known = (allocation_ids >= 0) & (allocation_ids < len(self._by_allocation))
        return np.where(known, self._by_allocation[np.where(known, allocation_ids, 0)], NO_SITE)

    def _failures(self, trace: Trace, process: str) -> dict[int, int]:
        """The site of each failed allocation, by its seq: it is in no row of `allocations`."""
        stacks: dict[int, int] = {}
        for group in trace.datasets["events"].row_groups(process):
            if may_hold(group, "action", "oom"):
                table = group.read(["seq", "action", "stack_id"])
                rows = table.filter(pa.array(equals(table, "action", "oom")))
                seqs, ids = integers(rows, "seq"), integers(rows, "stack_id")
                stacks.update(zip(seqs.tolist(), ids.tolist(), strict=True))
        asked = asked_by_seq(trace, process, stacks)
        return {
            seq: self._number(Site(stack, *(asked.get(seq, {}).get(word) or "" for word in _WORDS)))
            for seq, stack in stacks.items()
        }

    def _add(self, table: pa.Table) -> None:
        if not table.num_rows:
            return
        codes = [integers(table, "stack_id")]
        words: list[list[str]] = []
        for name in _WORDS:
            column = table.column(name).cast(pa.string()).combine_chunks().dictionary_encode()
            words.append([word or "" for word in column.dictionary.to_pylist()] + [""])
            codes.append(np.asarray(column.indices.fill_null(len(words[-1]) - 1), np.int64))
        rows, inverse = np.unique(np.stack(codes, axis=1), axis=0, return_inverse=True)
        numbers = np.array(
            [
                self._number(Site(stack, *(words[i][code] for i, code in enumerate(named))))
                for stack, *named in rows.tolist()
            ],
            np.int32,
        )
        sites = numbers[inverse.reshape(-1)]
        sites[equals(table, "origin", "external")] = UNCOUNTED
        ids = integers(table, "allocation_id")
        most = int(ids.max()) + 1
        if most > len(self._by_allocation):
            grown = np.zeros(most + most // 2, np.int32)
            grown[: len(self._by_allocation)] = self._by_allocation
            self._by_allocation = grown
        self._by_allocation[ids] = sites

    def _number(self, site: Site) -> int:
        number = self._numbers.setdefault(site, len(self.distinct))
        if number == len(self.distinct):
            self.distinct.append(site)
        return number


def frames_of(trace: Trace, process: str, sites: list[Site]) -> list[list[tuple[str, str, int]]]:
    """Frames of each site, innermost first: (name, filename, line)."""
    ids = {site.stack_id for site in sites if site.stack_id}
    stacks = stacks_by_id(trace, process, ids)
    return [_frames(site, stacks.get(site.stack_id, ())) for site in sites]


def _frames(site: Site, stack: tuple[Frame, ...]) -> list[tuple[str, str, int]]:
    frames = []
    if site.operator:
        frames.append((site.operator, OPERATOR_FILE, 0))
    if site.module:
        frames.append((f"{site.module} ({site.module_class})", MODULE_FILE, 0))
    return frames + [(frame.function, frame.file, frame.line) for frame in stack]
