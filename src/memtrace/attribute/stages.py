"""Stages found from what the program does: load, idle, inference, training.

Steps of one kind, one after the other, are one stage, from the first one's begin to the last one's
end; of training, to the end of the last backward or optimizer step that belongs to it. What lies
between is split: up to the last weight or buffer that was allocated in it, it is `load`, the rest
`idle`. Memory that is used for a moment between two steps does not make a stage: what is not longer
than a second and than five times the median step belongs to the stage before it (after the last
step: to none).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from memtrace.attribute.columns import NEVER, NONE, Flags, Int32s, Int64s
from memtrace.attribute.facts import Facts
from memtrace.attribute.steps import INFERENCE, TRAINING

LOAD, IDLE = "load", "idle"
#: Names that stages found here have, in the order of their codes.
AUTO_NAMES = (LOAD, IDLE, INFERENCE, TRAINING)
AUTO = "auto"
_IDLE_AT_LEAST_NS = 1_000_000_000
_IDLE_AT_LEAST_STEPS = 5


@dataclass(frozen=True, order=True)
class Place:
    """A place in the process's order: before the event `seq`."""

    seq: int
    time_ns: int


@dataclass
class Stage:
    """A stage from `begin` to `end`, neither of them null."""

    name: str
    begin: Place
    end: Place


@dataclass(frozen=True)
class UserStage:
    """What of the user's own stages decides whether an allocation's stage is theirs."""

    name: str
    begin_seq: int
    end_seq: int


class StageOf:
    """The stage of each allocation: the user's where there is one, else one found here."""

    def __init__(self, stages: list[Stage], by_user: list[UserStage]) -> None:
        self._starts = np.array([stage.begin.seq for stage in stages], np.int64)
        self._ends = np.array([stage.end.seq for stage in stages], np.int64)
        codes = [AUTO_NAMES.index(stage.name) for stage in stages]
        self._codes = np.array([*codes, NONE], np.int32)
        self._users = {
            name: _Anywhere([stage for stage in by_user if stage.name == name])
            for name in AUTO_NAMES
        }

    def found(self, born: Int64s) -> Int32s:
        """Place in AUTO_NAMES at each seq; NONE."""
        place = np.searchsorted(self._starts, born, side="right") - 1
        if not len(self._starts):
            return np.full(len(born), NONE, np.int32)
        inside = (place >= 0) & (born < self._ends[place])
        return self._codes[np.where(inside, place, NONE)]

    def is_users(self, codes: Int32s, words: list[str], born: Int64s) -> Flags:
        """Whether the stage that a row has is the user's.

        All are but those of a name that is given here, where no stage of the user's is called so.
        """
        ours = np.array([word in AUTO_NAMES for word in words] + [False])[codes]
        users: Flags = (codes != NONE) & ~ours
        for name, stages in self._users.items():
            named = np.array([word == name for word in words] + [False])[codes]
            users |= named & stages.hold(born)
        return users


class _Anywhere:
    """In any of some stages, of which a program may have one for each of its requests."""

    def __init__(self, stages: list[UserStage]) -> None:
        pairs = sorted((stage.begin_seq, stage.end_seq) for stage in stages)
        self._begins, ends = np.array(pairs, np.int64).reshape(-1, 2).T
        # By how many have begun: a place is in one of those if the last of their ends is later.
        self._latest_end = np.maximum.accumulate(np.append(np.iinfo(np.int64).min, ends))

    def hold(self, seq: Int64s) -> Flags:
        held: Flags = self._latest_end[np.searchsorted(self._begins, seq, side="right")] > seq
        return held


def find_stages(facts: Facts, training: Flags, end: Place) -> list[Stage]:
    """The stages of a process in order; they do not overlap.

    Args:
        training: of each step.
        end: of the recording.
    """
    runs = list(_runs(facts, training, end))
    births = facts.loaded
    if not runs:
        return [Stage(LOAD, Place(0, 0), _last_birth(facts, end))] if len(births.seq) else []
    longest = _longest_pause_ns(facts)
    stages: list[Stage] = []
    before = Place(0, 0)
    for run in [*runs, None]:
        until = end if run is None else run.begin
        _fill(stages, facts, before, until, longest, joins=run is not None)
        if run is not None:
            stages.append(run)
            before = run.end
    return [stage for stage in stages if stage.begin < stage.end]


def _longest_pause_ns(facts: Facts) -> int:
    steps = facts.steps
    ended = steps.end_time_ns != NEVER
    lasted = (steps.end_time_ns - steps.begin_time_ns)[ended]
    median = int(np.median(lasted)) if len(lasted) else 0
    return max(_IDLE_AT_LEAST_NS, _IDLE_AT_LEAST_STEPS * median)


def _runs(facts: Facts, training: Flags, end: Place) -> Iterator[Stage]:
    """Steps of one kind with no long pause between them, with the work that follows them."""
    steps = facts.steps
    longest = _longest_pause_ns(facts)
    ends = _work_ends(facts)
    run: Stage | None = None
    order = np.argsort(steps.begin, kind="stable").tolist()
    for i, step in enumerate(order):
        kind = TRAINING if training[step] else INFERENCE
        begin = Place(int(steps.begin[step]), int(steps.begin_time_ns[step]))
        its_end = _place(int(steps.end[step]), int(steps.end_time_ns[step]), end)
        if training[step]:
            until = int(steps.begin[order[i + 1]]) if i + 1 < len(order) else NEVER
            its_end = max(its_end, ends.last(begin.seq, until, end))
        if run is None:
            run = Stage(kind, begin, its_end)
        elif run.name == kind and begin.time_ns - run.end.time_ns <= longest:
            run.end = max(run.end, its_end)
        else:
            yield run
            run = Stage(kind, begin, its_end)
    if run is not None:
        yield run


def _place(seq: int, time_ns: int, end: Place) -> Place:
    return end if seq == NEVER else min(Place(seq, time_ns), end)


class _WorkEnds:
    """The ends of backward passes and optimizer steps, by their begin."""

    def __init__(self, begin: Int64s, end: Int64s, time_ns: Int64s) -> None:
        order = np.argsort(begin, kind="stable")
        self._begin, self._end, self._time_ns = begin[order], end[order], time_ns[order]

    def last(self, begin: int, until: int, end: Place) -> Place:
        """Of all that began in between, the last end."""
        first, beyond = np.searchsorted(self._begin, [begin, until], side="left").tolist()
        if first == beyond:
            return Place(0, 0)
        at = first + int(self._end[first:beyond].argmax())
        return _place(int(self._end[at]), int(self._time_ns[at]), end)


def _work_ends(facts: Facts) -> _WorkEnds:
    both = (facts.backward, facts.optimizer)
    return _WorkEnds(
        np.concatenate([work.begin for work in both]),
        np.concatenate([work.end for work in both]),
        np.concatenate([work.end_time_ns for work in both]),
    )


def _last_birth(facts: Facts, before: Place) -> Place:
    """Just after the last weight that was allocated before a place."""
    births = facts.loaded
    last = int(np.searchsorted(births.seq, before.seq, side="left")) - 1
    return Place(0, 0) if last < 0 else Place(int(births.seq[last]) + 1, int(births.time_ns[last]))


def _fill(
    stages: list[Stage], facts: Facts, begin: Place, end: Place, longest: int, *, joins: bool
) -> None:
    """Adds what lies between two runs, or before the first or after the last one."""
    loaded = _last_birth(facts, end)
    if loaded > begin:
        stages.append(Stage(LOAD, begin, loaded))
        begin = loaded
    if end.time_ns - begin.time_ns > longest:
        stages.append(Stage(IDLE, begin, end))
    elif joins and stages:  # of two threads, they may even overlap: one ends where the next begins
        stages[-1].end = end


def stage_rows(stages: list[Stage], first_id: int) -> list[dict[str, Any]]:
    """Rows of `stages`."""
    return [
        {
            "stage_id": first_id + i,
            "name": stage.name,
            "kind": AUTO,
            "start_seq": stage.begin.seq,
            "end_seq": stage.end.seq,
            "start_time_ns": stage.begin.time_ns,
            "end_time_ns": stage.end.time_ns,
        }
        for i, stage in enumerate(stages)
    ]
