"""Where modules ran: calls and their backward, in order."""

from __future__ import annotations

import numpy as np

from memtrace.whatif.modules import rows_of
from memtrace.whatif.runs import Before, Timeline, forward_of, run_at
from whatif.layered_runs import requests_of


def test_each_call_and_each_backward_is_a_run() -> None:
    requests = requests_of("--train")
    runs = Timeline(requests).runs(rows_of(requests, "layers.1"))
    assert [(run.step, run.backward) for run in runs] == [
        (1, False), (1, True), (2, False), (2, True),
    ]  # fmt: skip
    assert forward_of(runs).tolist() == [0, 0, 2, 2]


def test_a_layer_ends_where_the_next_one_begins() -> None:
    requests = requests_of("--train")
    timeline = Timeline(requests)
    first, second = (
        [run for run in timeline.runs(rows_of(requests, f"layers.{index}")) if not run.backward]
        for index in (1, 2)
    )
    assert [run.end for run in first] == [run.begin for run in second]
    assert all(run.begin < run.leave < run.end for run in first)
    assert all(run.entry < run.begin for run in first)


def test_a_place_is_in_the_run_that_has_begun_and_not_ended() -> None:
    requests = requests_of("")
    runs = Timeline(requests).runs(rows_of(requests, "layers.1"))
    begins, ends = (np.array([getattr(run, name) for run in runs]) for name in ("begin", "end"))
    assert run_at(runs, begins).tolist() == [0, 1]
    assert run_at(runs, ends).tolist() == [-1, -1]
    assert run_at(runs, np.array([np.inf])).tolist() == [-1]
    assert run_at((), begins).tolist() == [-1, -1]


def test_what_a_layer_was_given_is_the_last_of_its_size_that_was_held() -> None:
    requests = requests_of("")
    inside = rows_of(requests, "layers.1")
    run = Timeline(requests).runs(inside)[0]
    given = Before(requests, inside).last(run, 8 * 16 * 64 * 4)
    assert given is not None
    assert requests.rows["module"][given].as_py() == "layers.0"
    assert requests.rows["operator"][given].as_py() == "aten::add"
    assert Before(requests, inside).last(run, 12345) is None
