"""Calls of operators as nested slices, a track for each thread that made them.

The rows are in the order in which calls end, so a call comes after the calls in it: whole trees of
calls are sorted and written, what is left of a thread waits for its root.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np

from memtrace.analyse.counters import integers
from memtrace.export.perfetto import fields as f
from memtrace.export.perfetto.modules import Modules, ModuleSlices
from memtrace.export.perfetto.packets import (
    PacketFile,
    Recorded,
    Words,
    groups_inside,
    write_edges,
)
from memtrace.export.wire import Flags, Int64s
from memtrace.trace import Trace

_COLUMNS = (
    "parent_call_id", "thread_id", "start_time_ns", "end_time_ns", "name", "module",
)  # fmt: skip
_NEVER = 2**63 - 1
_NO_ROOT = -1
#: Calls that wait for their root; more than these are written without it.
_MOST_WAITING = 1 << 20


@dataclass(frozen=True)
class Calls:
    """Calls, a row each: times in the window, numbers of words for their names and modules."""

    parent: Int64s
    thread: Int64s
    start_ns: Int64s
    end_ns: Int64s
    name: Int64s
    module: Int64s

    def __len__(self) -> int:
        return len(self.thread)

    def take(self, rows: Int64s | Flags) -> Calls:
        """Some of them."""
        return Calls(*(getattr(self, field.name)[rows] for field in fields(self)))

    def followed_by(self, more: Calls) -> Calls:
        """These and then those."""
        names = [field.name for field in fields(self)]
        return Calls(*(np.concatenate([getattr(self, n), getattr(more, n)]) for n in names))


class _Thread:
    """The operators of one thread, and the modules that they say it was in."""

    def __init__(
        self, file: PacketFile, recorded: Recorded, thread_id: int, modules: Modules
    ) -> None:
        track = file.track(recorded, f"operators of thread {thread_id}")
        self._sequence = file.sequence(recorded, track)
        self._modules = ModuleSlices(file, recorded, thread_id, modules)

    def add(self, calls: Calls, names: Words) -> None:
        """Whole trees of calls."""
        order = np.lexsort((-np.arange(len(calls)), -calls.end_ns, calls.start_ns))
        calls = calls.take(order)
        self._modules.add(calls.start_ns, calls.end_ns, calls.module)
        times_ns, slices, begins = edges(calls.start_ns, calls.end_ns)
        write_edges(self._sequence, names, times_ns, np.where(begins, calls.name[slices], 0))

    def close(self) -> None:
        self._modules.close()


def edges(start_ns: Int64s, end_ns: Int64s) -> tuple[Int64s, Int64s, Flags]:
    """Begins and ends of slices, such that each end is that of the slice that began last.

    Args:
        start_ns, end_ns: of slices in the order of their starts, one around others before those.

    Returns:
        Of each edge: its time, its slice, and whether it is a begin. A slice that ends after the
        one around it is cut there; one without a duration gets a nanosecond.
    """
    count = len(start_ns)
    end_ns = np.maximum(end_ns, start_ns + 1)
    slices = np.tile(np.arange(count), 2)
    begins = np.arange(2 * count) < count
    for _ in range(2):
        times_ns = np.concatenate([start_ns, end_ns])
        # At one instant: ends first, the inner before the outer; then begins, as they come.
        place = np.where(begins, slices, -slices)
        order = np.lexsort((place, begins, times_ns))
        depth = np.cumsum(np.where(begins[order], 1, -1))
        depth[begins[order]] -= 1
        pairs = slices[order][np.argsort(depth, kind="stable")].reshape(-1, 2)
        if (pairs[:, 0] == pairs[:, 1]).all():
            break
        end_ns = _cut(start_ns, end_ns)
    return times_ns[order], slices[order], begins[order]


def _cut(start_ns: Int64s, end_ns: Int64s) -> Int64s:
    """Ends that are not after those of the slices around them."""
    ends = end_ns.tolist()
    around: list[int] = []
    for place, (start, end) in enumerate(zip(start_ns.tolist(), ends, strict=True)):
        while around and around[-1] <= start:
            around.pop()
        if around and end > around[-1]:
            ends[place] = around[-1]
        around.append(ends[place])
    return np.array(ends, np.int64)


def write_calls(trace: Trace, file: PacketFile, recorded: Recorded) -> None:
    """The operators and modules of every thread."""
    names, modules = Words(f.INTERNED_EVENT_NAMES), Modules(trace, recorded)
    threads: dict[int, _Thread] = {}
    for calls in _whole_trees(_read(trace, file, recorded, names, modules.words)):
        for thread_id in np.unique(calls.thread).tolist():
            if thread_id not in threads:
                threads[thread_id] = _Thread(file, recorded, thread_id, modules)
            threads[thread_id].add(calls.take(calls.thread == thread_id), names)
    for thread in threads.values():
        thread.close()


def _read(
    trace: Trace, file: PacketFile, recorded: Recorded, names: Words, modules: Words
) -> Iterator[Calls]:
    groups = groups_inside(trace, file, recorded, "operators", "start_time_ns", "end_time_ns")
    start, end = file.window_ns
    for group in groups:
        table = group.read(_COLUMNS)
        start_ns = integers(table, "start_time_ns", missing=_NEVER)
        end_ns = integers(table, "end_time_ns", missing=-1)  # null: the call's end was lost
        inside = (start_ns < end) & (end_ns >= start)
        yield Calls(
            integers(table, "parent_call_id", missing=_NO_ROOT),
            integers(table, "thread_id", missing=-1),
            np.clip(start_ns, start, end),
            np.clip(end_ns, start, end),
            names.ids(table.column("name"), missing="?"),
            modules.ids(table.column("module")),
        ).take(inside)


def _whole_trees(read: Iterator[Calls]) -> Iterator[Calls]:
    nothing = np.empty(0, np.int64)
    waiting = Calls(*[nothing] * len(fields(Calls)))
    for more in read:
        calls = waiting.followed_by(more)
        threads, places = np.unique(calls.thread, return_inverse=True)
        last_root = np.full(len(threads), -1)
        roots = np.flatnonzero(calls.parent == _NO_ROOT)
        np.maximum.at(last_root, places[roots], roots)
        ready = np.arange(len(calls)) <= last_root[places]
        if np.count_nonzero(~ready) > _MOST_WAITING:
            ready[:] = True
        yield calls.take(ready)
        waiting = calls.take(~ready)
    yield waiting
