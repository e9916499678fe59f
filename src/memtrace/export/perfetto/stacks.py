"""Callstacks as interned data: those that Python had, and words for what had none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from memtrace.analyse.counters import integers
from memtrace.export.perfetto import fields as f
from memtrace.export.perfetto.packets import Sequence, Words
from memtrace.export.wire import Flags, Int64s, integer, message
from memtrace.trace import Trace

#: Columns of `allocations` that callstacks are made of.
COLUMNS = ("stack_id", "phase", "module", "source", "operator")
_NO_STACK = -1


class Callstacks:
    """The callstacks of one process, known to one sequence.

    A stack's number is 2 * stack_id + 2. An allocation without one (its thread has no Python
    frames, or stacks were off) has an odd number: that of what is known of it instead.
    """

    def __init__(self, trace: Trace, process: str, sequence: Sequence) -> None:
        self._trace = trace
        self._process = process
        self._sequence = sequence
        self._functions = Words(f.INTERNED_FUNCTIONS)
        self._paths = Words(f.INTERNED_SOURCE_PATHS)
        self._frames: dict[tuple[int, int, int], int] = {}
        self._taught = np.zeros(0, np.bool_)
        self._wordy: dict[tuple[int, ...], int] = {}
        self._words = Words(f.INTERNED_FUNCTIONS)

    def teach(self, used: Flags) -> None:
        """Interns the stacks whose id is flagged, before events name them."""
        size = max(len(used), len(self._taught))
        used, taught = (np.pad(a, (0, size - len(a))) for a in (used, self._taught))
        if (used & ~taught).any():
            self._sequence.intern(self._stacks(used & ~taught))
        self._taught = used | taught

    def _stacks(self, used: Flags) -> Iterator[bytes]:
        columns = ["stack_id", "depth", "function", "file", "line"]
        known = np.zeros(len(used), np.bool_)
        held: list[pa.Table] = []
        for group in self._trace.datasets["stacks"].row_groups(self._process):
            table = group.read(columns)
            ids = integers(table, "stack_id", missing=_NO_STACK)
            chosen = (ids >= 0) & (ids < len(used))
            chosen[chosen] = used[ids[chosen]]
            held.append(table.filter(pa.array(chosen)))
            # A stack's rows are together, but may go on in the next row group.
            last = int(ids[-1]) if len(ids) else _NO_STACK
            table = pa.concat_tables(held)
            goes_on = pa.array(integers(table, "stack_id") == last)
            held = [table.filter(goes_on)]
            yield from self._interned(table.filter(pc.invert(goes_on)), known)
        for table in held:
            yield from self._interned(table, known)
        # Where the stack itself is not in the trace (cut off, damaged): a name for it.
        for stack_id in np.flatnonzero(used & ~known).tolist():
            yield from self._callstack(2 * stack_id + 2, [("(stack not in the trace)", "", 0)])

    def _interned(self, table: pa.Table, known: Flags) -> Iterator[bytes]:
        rows: dict[int, list[tuple[int, str, str, int]]] = {}
        for stack_id, depth, function, file, line in zip(
            *(column.to_pylist() for column in table.columns), strict=True
        ):
            rows.setdefault(stack_id, []).append(
                (depth or 0, function or "?", file or "", line or 0)
            )
        for stack_id, frames in rows.items():
            known[stack_id] = True
            ordered = sorted(frames, key=lambda frame: -frame[0])  # perfetto's are outermost first
            yield from self._callstack(2 * stack_id + 2, [frame[1:] for frame in ordered])

    def _callstack(self, number: int, frames: Iterable[tuple[str, str, int]]) -> Iterator[bytes]:
        ids: list[bytes] = []
        for function, file, line in frames:
            known = len(self._functions.words), len(self._paths.words)
            words = self._functions.id_of(function), self._paths.id_of(file) if file else 0
            yield from map(
                self._functions.entry, range(known[0] + 1, len(self._functions.words) + 1)
            )
            yield from map(self._paths.entry, range(known[1] + 1, len(self._paths.words) + 1))
            frame = (*words, line)
            if frame not in self._frames:
                self._frames[frame] = len(self._frames) + 1
                where = [integer(f.FRAME_SOURCE_PATH, words[1])] if file else []
                where += [integer(f.FRAME_LINE, line)] if line > 0 else []
                yield message(
                    f.INTERNED_FRAMES,
                    integer(1, self._frames[frame]),
                    integer(f.FRAME_FUNCTION, words[0]),
                    *where,
                )
            ids.append(integer(f.CALLSTACK_FRAMES, self._frames[frame]))
        yield message(f.INTERNED_CALLSTACKS, integer(1, number), *ids)

    def numbers(self, table: pa.Table) -> Int64s:
        """The callstack of each row of a table with COLUMNS; taught to the sequence."""
        stack_ids = integers(table, "stack_id", missing=_NO_STACK)
        numbers = 2 * stack_ids + 2
        without = np.flatnonzero(stack_ids < 0)
        if len(without):
            rows = table.select(COLUMNS[1:]).take(without)
            said = np.stack([self._words.ids(rows.column(name)) for name in COLUMNS[1:]])
            unique, places = np.unique(said, axis=1, return_inverse=True)
            self._sequence.intern(self._of_words(unique))
            ids = np.array([self._wordy[tuple(said)] for said in unique.T.tolist()], np.int64)
            numbers[without] = ids[places.reshape(-1)]
        return numbers

    def _of_words(self, said: Int64s) -> Iterator[bytes]:
        for each in map(tuple, said.T.tolist()):
            if each not in self._wordy:
                number = self._wordy[each] = 2 * len(self._wordy) + 1
                words = [self._words.words[word - 1] for word in each if word]
                frames = [(word, "", 0) for word in ("(no Python stack)", *words)]
                yield from self._callstack(number, frames)
