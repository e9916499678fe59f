"""Which steps train, by the work that follows them on their thread."""

from __future__ import annotations

import time

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from memtrace.attribute.columns import NEVER, NONE, Int64s
from memtrace.attribute.intervals import Intervals
from memtrace.attribute.steps import Steps

# Where each begins, and on which thread.
begun = st.lists(
    st.tuples(st.integers(0, 12) | st.just(NEVER), st.sampled_from([1, 2, 3, NEVER])), max_size=12
)
Begun = list[tuple[int, int]]


def made_steps(begin: Int64s, thread: Int64s) -> Steps:
    n = len(begin)
    no = np.zeros(n, np.bool_)
    return Steps(
        np.arange(n), begin, begin, begin, begin, thread, no, no, np.full(n, NONE, np.int32), []
    )


def work_of(pairs: Begun) -> Intervals:
    begin, thread = np.array(pairs, np.int64).reshape(-1, 2).T
    return Intervals.of(begin, begin, begin, thread)


@given(begun, begun, begun)
def test_work_belongs_to_the_last_step_of_its_thread(
    steps: Begun, backward: Begun, optimizer: Begun
) -> None:
    found = made_steps(*np.array(steps, np.int64).reshape(-1, 2).T).is_training(
        work_of(backward), work_of(optimizer)
    )
    ordered = sorted(range(len(steps)), key=lambda step: steps[step][0])
    for place, step in enumerate(ordered):
        begin, thread = steps[step]
        later = (steps[other][0] for other in ordered[place + 1 :] if steps[other][1] == thread)
        until = next(later, NEVER)
        belongs = any(
            begin <= at < until and whose in (thread, NEVER) for at, whose in backward + optimizer
        )
        assert found[step] == belongs


def test_many_threads_take_no_longer_than_few() -> None:
    n = 100_000
    places = np.arange(n)
    steps = made_steps(4 * places, places)
    backward = Intervals.of(4 * places + 1, 4 * places + 2, 4 * places + 2, places)
    took_s = time.process_time()
    assert steps.is_training(backward, work_of([])).all()
    assert time.process_time() - took_s < 3  # each by itself: many times as long
