"""Steps that are calls of root models: when, and what is known of what happened in each.

A step that the program marked has no rules: what it does is done by the calls in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from memtrace.attribute.columns import NEVER, NONE, Columns, Flags, Int32s, Int64s, places_of
from memtrace.attribute.intervals import Intervals
from memtrace.dataset import Part, row_groups_of

TRAINING, INFERENCE = "training", "inference"


@dataclass
class Steps:
    """Every step, by its number.

    Attributes (arrays of n; what a survey of `allocations` fills is marked so):
        marked: by the number of each call that lies in one, the marked step that it lies in; and of
            each marked step that around it.
        ids: int64, sorted.
        begin, end, begin_time_ns, end_time_ns: int64; NEVER: it did not end.
        thread: int64; NEVER: not known.
        grad_enabled, failed: whether autograd recorded it; whether it raised.
        root: int32 code in `roots` of the model's class; NONE.
        births: int64, surveyed: allocations made in it.
        outputs_freed_first, outputs_freed_last: int64, surveyed: seqs of the frees of what it
            allocated and returned; NEVER: of none, of not all. `has_outputs`: there are any.
        trained: surveyed: a backward allocated for it.
    """

    ids: Int64s
    begin: Int64s
    end: Int64s
    begin_time_ns: Int64s
    end_time_ns: Int64s
    thread: Int64s
    grad_enabled: Flags
    failed: Flags
    root: Int32s
    roots: list[str]
    marked: dict[int, int] = field(default_factory=dict)
    births: Int64s = field(init=False)
    outputs_freed_first: Int64s = field(init=False)
    outputs_freed_last: Int64s = field(init=False)
    has_outputs: Flags = field(init=False)
    trained: Flags = field(init=False)

    def __post_init__(self) -> None:
        n = len(self.ids)
        self.births = np.zeros(n, np.int64)
        self.outputs_freed_first = np.full(n, NEVER, np.int64)
        self.outputs_freed_last = np.full(n, NONE, np.int64)
        self.has_outputs = np.zeros(n, np.bool_)
        self.trained = np.zeros(n, np.bool_)

    def __len__(self) -> int:
        return len(self.ids)

    def places(self, ids: Int64s) -> Int64s:
        """Where each step is in the arrays; NONE: no step, or none that is known."""
        return places_of(self.ids, ids)

    def kinds_of_marked(self, training: Flags) -> dict[int, bool]:
        """Of each marked step in which models were called: whether one of the calls trained."""
        kinds: dict[int, bool] = {}
        if not self.marked:
            return kinds
        for number, trained in zip(self.ids.tolist(), training.tolist(), strict=True):
            while (around := self.marked.get(number)) is not None and around < number:
                kinds[around] = kinds.get(around, False) or trained
                number = around
        return kinds

    def is_training(self, backward: Intervals, optimizer: Intervals) -> Flags:
        """Whether a backward or an optimizer belongs to each step.

        One that allocated for it, or began after it and before the next step of its thread.
        """
        training: Flags = self.trained.copy()
        order = np.lexsort((self.begin, self.thread))
        begin, thread = self.begin[order], self.thread[order]
        is_last = np.append(thread[1:] != thread[:-1], True)[: len(self)]
        until = np.where(is_last, NEVER, np.roll(begin, -1))
        for work in (backward, optimizer):
            # What is of no known thread may belong to a step of each.
            anyones = work.begin[work.thread == NEVER]
            first = np.searchsorted(anyones, begin, side="left")
            training[order] |= first < np.searchsorted(anyones, until, side="left")
            step = _last_before(begin, thread, work)
            belongs = (step != NONE) & (work.begin < np.append(until, NONE)[step])
            training[order[step[belongs]]] = True
        return training


def _last_before(begin: Int64s, thread: Int64s, work: Intervals) -> Int64s:
    """Of the steps in order of thread and begin, the last of its thread when each began; NONE."""
    # Sorting is stable: of those that begin at one place, the steps come first.
    order = np.lexsort((np.concatenate([begin, work.begin]), np.concatenate([thread, work.thread])))
    is_step = order < len(begin)
    last = np.empty(len(work), np.int64)
    last[order[~is_step] - len(begin)] = np.cumsum(is_step)[~is_step] - 1
    return np.where(np.append(thread, NONE)[last] == work.thread, last, NONE)


def read_steps(parts: Sequence[Part]) -> Steps:
    """Reads `steps`."""
    marked: dict[int, int] = {}
    roots: dict[str, int] = {}
    names = (
        "step", "start_seq", "end_seq", "start_time_ns", "end_time_ns", "thread_id",
    )  # fmt: skip
    found = []
    for group in row_groups_of(parts):
        table = group.read([*names, "grad_enabled", "error", "root_module", "name", "parent_step"])
        inside = table.filter(table.column("parent_step").is_valid())
        marked |= dict(
            zip(
                Columns(inside).numbers("step").tolist(),
                Columns(inside).numbers("parent_step").tolist(),
                strict=True,
            )
        )
        columns = Columns(table.filter(table.column("name").is_null()))
        codes, words = columns.words("root_module")
        shared = np.array([roots.setdefault(word, len(roots)) for word in words] + [NONE], np.int64)
        found.append(
            [columns.numbers(name) for name in names]
            + [columns.flags("grad_enabled").astype(np.int64)]
            + [(columns.words("error")[0] != NONE).astype(np.int64), shared[codes]]
        )
    columns_of = [np.concatenate(column) for column in zip(*found, strict=True)]
    ids, begin, end, begin_ns, end_ns, thread, grad, failed, root = (
        columns_of or [np.empty(0, np.int64)] * 9
    )
    ids, order = np.unique(ids, return_index=True)
    return Steps(
        ids, begin[order], end[order], begin_ns[order], end_ns[order], thread[order],
        grad[order] != 0, failed[order] != 0, root[order].astype(np.int32), list(roots), marked,
    )  # fmt: skip
