"""The rules: which category each allocation has, and what proves it (`category_by`).

The first rule that fits decides; by identity and by label, the earliest category of FORMAT.md.

| category | by | proof |
| --- | --- | --- |
| weight, buffer, gradient, optimizer_state, kv_cache, input, output | identity | a name of that
  kind: the storage was seen to be it |
| any | label | the user said so with memtrace.label, and no name proves an earlier one |
| activation | lifetime | *saved*: allocated by a forward, alive when a later backward began, freed
  in a backward |
| | | *recomputed*: allocated by a forward inside a backward (a checkpoint), freed in a backward,
  and it outlived the model's call that it was recomputed by; where no such call is known, the
  operator's |
| | | *lost*: the backward that came next failed for want of memory, or the process died in it |
| | | *unused*: allocated by a step that recorded autograd's graph and that no backward followed.
  It outlived the step, and was freed with what the step returned (then the graph goes), or neither
  ever was; or the step raised, or never ended |
| workspace | lifetime | one that torch keeps for cuBLAS (workspaces.py): neither lost nor unused |
| temporary | lifetime | it died inside what made it: a step, a backward, an optimizer's step, an
  operator; or that was cut short (a step without a graph, a backward), and would have freed it |
| other | | nothing of all that: such as a tensor that somebody put into a list |

The label, what is shown first, is the user's; else the name that proves the category; else, of
memory in a pool that a CUDA graph was captured into, that pool ("CUDA graph pool 3"): it stays
taken as long as the graph may be replayed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memtrace.attribute.columns import NEVER, NONE, Columns, Flags, Int8s, Int64s, places_of
from memtrace.attribute.facts import BACKWARD, FORWARD, OPTIMIZER, PHASES, Facts
from memtrace.attribute.intervals import Intervals
from memtrace.attribute.names import NO_CATEGORY
from memtrace.categories import CATEGORIES

ACTIVATION, WORKSPACE, TEMPORARY, OTHER = (
    CATEGORIES.index(name) for name in ("activation", "workspace", "temporary", "other")
)
#: What proved a category; NONE: nothing, it is `other`.
PROOFS = ("identity", "lifetime", "label")
IDENTITY, LIFETIME, LABEL = range(3)

#: Columns of `allocations` that the rules look at.
COLUMNS = (
    "allocation_id", "alloc_seq", "free_seq", "free_time_ns", "phase", "step", "operator_call_id",
    "category", "category_by",
)  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """Of each row: a place in CATEGORIES, and one in PROOFS."""

    category: Int8s
    proof: Int8s


def categorise(columns: Columns, facts: Facts) -> Verdict:
    """The category of every row of a row group (which has COLUMNS)."""
    category = np.full(columns.rows, OTHER, np.int8)
    proof = np.full(columns.rows, NONE, np.int8)
    by_lifetime = _by_lifetime(columns, facts)
    found = by_lifetime != OTHER
    category[found], proof[found] = by_lifetime[found], LIFETIME
    labelled = columns.codes("category_by", ["label"]) != NONE
    said = columns.codes("category", CATEGORIES)
    said = np.where(labelled & (said != NONE), said, NO_CATEGORY).astype(np.int8)
    names = facts.names
    place = names.places(columns.numbers("allocation_id"))
    known = np.append(names.category, NO_CATEGORY)[place].astype(np.int8)
    by_label = said < known
    by_name = (known < NO_CATEGORY) & ~by_label
    category[by_label], proof[by_label] = said[by_label], LABEL
    category[by_name], proof[by_name] = known[by_name], IDENTITY
    return Verdict(category, proof)


def _by_lifetime(columns: Columns, facts: Facts) -> Int8s:
    life = _Lives(columns, facts)
    category = np.full(columns.rows, OTHER, np.int8)
    recomputed, unsure = life.recomputed()
    rest = ~(recomputed | life.saved())
    category[~rest] = ACTIVATION
    if len(facts.workspaces):
        ids = columns.numbers("allocation_id")
        workspace = rest & (places_of(facts.workspaces, ids) != NONE)
        category[workspace] = WORKSPACE
        rest &= ~workspace
    # Memory that is never freed: first come the workspaces, of which that is to be expected.
    kept = rest & (life.lost() | life.unused())
    category[kept] = ACTIVATION
    rest &= ~kept
    temporary = rest & life.temporary()
    category[temporary] = TEMPORARY
    # Calls are looked up for the few that are left.
    left = np.flatnonzero((rest & ~temporary) | unsure)
    calls = columns.numbers("operator_call_id")[left]
    inside = facts.calls.died_inside(calls, columns.numbers("free_time_ns")[left])
    category[left[inside]] = TEMPORARY
    return category


class _Lives:
    """When each allocation was born and freed, beside the steps and passes around it."""

    def __init__(self, columns: Columns, facts: Facts) -> None:
        self.facts = facts
        self.born = columns.numbers("alloc_seq")
        self.freed = columns.numbers("free_seq")
        phase = columns.codes("phase", PHASES)
        self.forward, self.in_backward, self.in_optimizer = (
            phase == code for code in (FORWARD, BACKWARD, OPTIMIZER)
        )
        self.step = facts.steps.places(columns.numbers("step"))
        steps, backward = facts.steps, facts.backward
        self.step_begin, self.step_end = (
            self._of_step(values, missing)
            for values, missing in ((steps.begin, NEVER), (steps.end, NONE))
        )
        self.in_step = (self.born >= self.step_begin) & (self.born < self.step_end)
        self.in_step &= ~(self.in_backward | self.in_optimizer)
        self.around = backward.covering(self.born)
        self.again = self.forward & (self.around != NONE) & ~self._beside()

    def _of_step(self, values: Int64s | Flags, missing: int) -> Int64s:
        return np.append(values, missing).astype(np.int64)[self.step]

    def _beside(self) -> Flags:
        """A step that another thread computes while this backward runs: nothing is recomputed."""
        backward, steps = self.facts.backward, self.facts.steps
        begin = backward.value(backward.begin, self.around, NONE)
        thread = backward.value(backward.thread, self.around, NEVER)
        own = self._of_step(steps.thread, NEVER)
        within: Flags = (begin >= self.step_begin) & ((thread == own) | (thread == NEVER))
        beside: Flags = self.in_step & ~within
        return beside

    def saved(self) -> Flags:
        backward = self.facts.backward
        begin = backward.value(backward.begin, backward.covering(self.freed), NONE)
        found: Flags = self.forward & ~self.again & (begin > self.born) & (self.freed != NEVER)
        return found

    def recomputed(self) -> tuple[Flags, Flags]:
        """Those, and those of them that may have died in an operator's call."""
        backward, recompute = self.facts.backward, self.facts.recompute
        begin = backward.value(backward.begin, backward.covering(self.freed), NONE)
        freed_there = self._dies_in(backward, self.around != NONE) | (begin > self.born)
        call = recompute.covering(self.born)
        outlives = self.freed >= recompute.value(recompute.end, call, NONE)
        found = self.again & freed_there & outlives & (self.freed != NEVER)
        return found, found & (call == NONE)

    def lost(self) -> Flags:
        backward = self.facts.backward
        after = backward.next_after(self.born)
        failed = np.append(self.facts.backward_failed, [False])[after]
        end = backward.value(backward.end, after, NEVER)
        found: Flags = self.forward & ~self.again & failed & (self.freed >= end)
        return found

    def unused(self) -> Flags:
        steps, backward = self.facts.steps, self.facts.backward
        if not len(steps):
            return np.zeros(len(self.born), np.bool_)
        next_begin = backward.value(backward.begin, backward.next_after(self.born), NEVER)
        graph: Flags = self.forward & self.in_step & (self._of_step(steps.grad_enabled, 0) != 0)
        graph &= (self.freed >= self.step_end) & ((next_begin > self.freed) | (next_begin == NEVER))
        # A step's frees come in a burst; a free of CUDA is two events. What autograd saved goes
        # just before the output whose graph it is, or just after.
        burst = 2 * self._of_step(steps.births, 0)
        first = self._of_step(steps.outputs_freed_first, NEVER)
        last = self._of_step(steps.outputs_freed_last, NONE)
        never = self.freed == NEVER
        with_outputs = never & (last == NEVER)
        with_outputs |= (
            ~never
            & (self.freed >= first - burst)
            & ((last == NEVER) | (self.freed <= np.where(last == NEVER, 0, last) + burst))
        )
        with_outputs &= self._of_step(steps.has_outputs, 0) != 0
        graph &= with_outputs | self._cut_short()
        return graph

    def _cut_short(self) -> Flags:
        steps = self.facts.steps
        cut: Flags = (self._of_step(steps.failed, 0) != 0) | (self.step_end == NEVER)
        return cut

    def temporary(self) -> Flags:
        """Not asked of activations: what is left of a step that was cut short is none."""
        facts, backward = self.facts, self.facts.backward
        in_step = self.in_step & ((self.freed < self.step_end) | self._cut_short())
        in_backward = self._dies_in(backward, self.in_backward | self.again)
        failed = np.append(facts.backward_failed, [False])[self.around]
        in_backward |= (self.in_backward | self.again) & failed
        found: Flags = in_step | in_backward | self._dies_in(facts.optimizer, self.in_optimizer)
        return found

    def _dies_in(self, intervals: Intervals, born_there: Flags) -> Flags:
        last_end = intervals.last_end(self.born)
        found: Flags = born_there & (self.freed < last_end) & (self.freed != NEVER)
        return found
