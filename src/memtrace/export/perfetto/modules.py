"""Modules as nested slices: where a thread was, as far as its operators tell.

A module's slice goes from the first operator that ran in it to the last one of those that follow
each other there. The outermost slice is the call of the root module: a step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memtrace.analyse.counters import integers
from memtrace.export.perfetto import fields as f
from memtrace.export.perfetto.packets import PacketFile, Recorded, Sequence, Words, write_edges
from memtrace.export.wire import Flags, Int64s
from memtrace.trace import Trace

_NEVER = 2**63 - 1
#: Modules nested deeper are left out.
_MOST_LEVELS = 48


@dataclass(frozen=True)
class RootCalls:
    """The steps of one thread in the order of time: when they began and ended, and of what."""

    start_ns: Int64s
    end_ns: Int64s
    name: Int64s

    def at(self, time_ns: Int64s) -> Int64s:
        """The step that runs at each instant, counted from 1; 0 for none."""
        if not len(self.start_ns):
            return np.zeros(len(time_ns), np.int64)
        place = np.searchsorted(self.start_ns, time_ns, side="right")
        runs = (place > 0) & (self.end_ns[place - 1] >= time_ns)
        return np.where(runs, place, 0)


class Modules:
    """What modules there are around each module of a process, and its calls of root modules."""

    def __init__(self, trace: Trace, recorded: Recorded) -> None:
        #: Paths of modules, and names of root modules.
        self.words = Words(f.INTERNED_EVENT_NAMES)
        self._chains: dict[int, list[int]] = {0: []}
        self._called = self._of_stacks(trace, recorded.key)
        self._roots = self._root_calls(trace, recorded.key)

    @staticmethod
    def _of_stacks(trace: Trace, process: str) -> frozenset[str]:
        found: set[str | None] = set()
        for group in trace.datasets["stacks"].row_groups(process):
            found.update(group.read(["module"]).column("module").unique().to_pylist())
        return frozenset(word for word in found if word)

    def _root_calls(self, trace: Trace, process: str) -> dict[int, RootCalls]:
        columns = [np.empty((4, 0), np.int64)]
        for group in trace.datasets["steps"].row_groups(process):
            table = group.read(["thread_id", "start_time_ns", "end_time_ns", "root_module", "name"])
            table = table.filter(table.column("name").is_null())
            columns.append(
                np.stack(
                    [
                        integers(table, "thread_id", missing=-1),
                        integers(table, "start_time_ns"),
                        integers(table, "end_time_ns", missing=_NEVER),
                        self.words.ids(table.column("root_module"), missing="?"),
                    ]
                )
            )
        rows = np.concatenate(columns, axis=1)
        rows = rows[:, np.argsort(rows[1], kind="stable")]
        return {
            thread_id: RootCalls(*rows[1:, rows[0] == thread_id])
            for thread_id in np.unique(rows[0]).tolist()
        }

    def root_calls(self, thread_id: int) -> RootCalls:
        """The steps of a thread."""
        nothing = np.empty(0, np.int64)
        return self._roots.get(thread_id, RootCalls(nothing, nothing, nothing))

    def chains(self, modules: Int64s) -> Int64s:
        """The modules around each one and itself, outermost first.

        A list of modules is in the path of what it holds, but is never called: it is left out.

        Args:
            modules: int64[n], numbers of `words`; 0 is none.

        Returns:
            int64[n, levels], numbers of `words`; 0 behind the innermost.
        """
        unique, places = np.unique(modules, return_inverse=True)
        chains = [self._chain(number) for number in unique.tolist()]
        table = np.zeros((len(chains), max(map(len, chains), default=0)), np.int64)
        for row, chain in zip(table, chains, strict=True):
            row[: len(chain)] = chain
        return table[places]

    def _chain(self, number: int) -> list[int]:
        if number not in self._chains:
            path = self.words.words[number - 1]
            dots = [place for place, letter in enumerate(path) if letter == "."]
            around = [path[:dot] for dot in dots if path[:dot] in self._called]
            named = [*around[: _MOST_LEVELS - 1], path]
            self._chains[number] = [self.words.id_of(word) for word in named]
        return self._chains[number]


class ModuleSlices:
    """The track of one thread's modules."""

    def __init__(
        self, file: PacketFile, recorded: Recorded, thread_id: int, modules: Modules
    ) -> None:
        self._file = file
        self._recorded = recorded
        self._name = f"modules of thread {thread_id}"
        self._sequence: Sequence | None = None
        self._modules = modules
        self._roots = modules.root_calls(thread_id)
        #: The step (from 1), then the modules in it, that are open; and when their last call ended.
        self._open = np.zeros(1, np.int64)
        self._ended_ns = 0
        self._last_ns = 0

    def add(self, start_ns: Int64s, end_ns: Int64s, module: Int64s) -> None:
        """Calls in the order of their starts."""
        if not len(start_ns):
            return
        step = self._roots.at(start_ns)
        # What runs in the root module itself is in the outermost slice, which has its name.
        module = np.where(module == np.append(self._roots.name, 0)[step - 1], 0, module)
        changed = (np.diff(module, prepend=-1) != 0) | (np.diff(step, prepend=-1) != 0)
        first = np.flatnonzero(changed)
        ended_ns = np.maximum.accumulate(np.maximum.reduceat(end_ns, first))
        levels = np.column_stack([step[first], self._modules.chains(module[first])])
        self._write(start_ns[first], np.concatenate([[self._ended_ns], ended_ns[:-1]]), levels)
        self._open, self._ended_ns = levels[-1], int(ended_ns[-1])

    def close(self) -> None:
        """Ends what is open."""
        never, ended = np.array([_NEVER]), np.array([self._ended_ns])
        self._write(never, ended, np.zeros((1, 1), np.int64))

    def _write(self, start_ns: Int64s, ended_ns: Int64s, levels: Int64s) -> None:
        """Runs of calls of the same modules, and when each one's predecessor ended."""
        width = max(levels.shape[1], len(self._open))
        after = np.pad(levels, ((0, 0), (0, width - levels.shape[1])))
        opened = np.pad(self._open, (0, width - len(self._open)))
        before = np.vstack([opened, after[:-1]])
        stays: Flags = np.logical_and.accumulate(before == after, axis=1)
        end_run, end_level = np.nonzero(~stays & (before != 0))
        begin_run, begin_level = np.nonzero(~stays & (after != 0))
        root_end = np.append(self._roots.end_ns, 0)[before[:, 0] - 1]
        root_end = np.where(root_end == _NEVER, 0, root_end)
        ends_ns = np.where(
            end_level == 0, np.maximum(root_end, ended_ns)[end_run], ended_ns[end_run]
        )
        root_start = np.append(self._roots.start_ns, 0)[after[:, 0] - 1]
        begins_ns = np.where(begin_level == 0, root_start[begin_run], start_ns[begin_run])
        run = np.concatenate([end_run, begin_run])
        is_begin = np.arange(len(run)) >= len(end_run)
        order = np.lexsort((np.concatenate([-end_level, begin_level]), is_begin, run))
        times_ns = np.concatenate([np.minimum(ends_ns, start_ns[end_run]), begins_ns])[order]
        times_ns = np.maximum.accumulate(np.clip(times_ns, *self._file.window_ns))
        times_ns = np.maximum(times_ns, self._last_ns)
        root_names = np.append(self._roots.name, 0)[after[:, 0] - 1]
        names = np.where(begin_level == 0, root_names[begin_run], after[begin_run, begin_level])
        named = np.concatenate([np.zeros(len(end_run), np.int64), names])[order]
        if not len(times_ns):
            return
        self._last_ns = int(times_ns[-1])
        if self._sequence is None:
            track = self._file.track(self._recorded, self._name)
            self._sequence = self._file.sequence(self._recorded, track)
        write_edges(self._sequence, self._modules.words, times_ns, named)
