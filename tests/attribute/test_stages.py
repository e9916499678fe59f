"""Kinds of steps, and the stages that are found from what a program does."""

from __future__ import annotations

import time
from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attributed_program import Program
from memtrace.attribute.columns import NEVER, NONE
from memtrace.attribute.stages import AUTO_NAMES, StageOf, UserStage
from trace_builder import ProcessBuilder

S = 1_000_000_000

places = st.integers(0, 30)
user_stages = st.builds(
    UserStage, st.sampled_from([*AUTO_NAMES, "mine"]), places, places | st.just(NEVER)
)


def serve(p: ProcessBuilder, requests: int, *, pause_ns: int = 0, **columns: object) -> None:
    for _ in range(requests):
        with p.step(**columns):
            p.alloc("cpu", 8)
        p.time_ns += pause_ns


def load(p: ProcessBuilder, name: str = "w") -> None:
    p.name(p.alloc("cpu", 8), name, kind="weight")


def train(p: ProcessBuilder, steps: int) -> None:
    for _ in range(steps):
        with p.step(grad_enabled=True):
            p.alloc("cpu", 8)
        with p.marked("backward", text="1"):
            p.alloc("cpu", 8)
        with p.marked("optimizer"):
            p.alloc("cpu", 8)


def stages(program: Program) -> list[tuple[str, int, int]]:
    program.attributed()
    return [
        (row["name"], row["start_seq"], row["end_seq"])
        for row in program.rows("stages")
        if row["kind"] == "auto"
    ]


def test_a_server_loads_idles_and_serves(program: Program) -> None:
    p = program.process
    load(p)
    load(p)
    p.alloc("cpu", 8)
    p.time_ns += 2 * S
    serve(p, 3, pause_ns=S // 2)
    p.time_ns += 2 * S
    p.alloc("cpu", 8)
    assert stages(program) == [
        ("load", 0, 2), ("idle", 2, 3), ("inference", 3, 6), ("idle", 6, 7),
    ]  # fmt: skip
    rows = program.rows("allocations")
    assert [row["stage"] for row in rows] == [
        "load", "load", "idle", "inference", "inference", "inference", "idle",
    ]  # fmt: skip


def test_a_long_pause_splits_a_run(program: Program) -> None:
    p = program.process
    load(p)
    serve(p, 2, pause_ns=3 * S)
    p.alloc("cpu", 8)
    serve(p, 1)
    assert [name for name, *_ in stages(program)] == [
        "load", "inference", "idle", "inference", "idle", "inference",
    ]  # fmt: skip


def test_one_stage_ends_where_the_next_begins(program: Program) -> None:
    p = program.process
    with p.step(grad_enabled=True):
        p.alloc("cpu", 8)
    with p.marked("backward", text="1"):
        p.alloc("cpu", 8)
        serve(p, 1, thread_id=2)
    assert stages(program) == [("training", 0, 2), ("inference", 2, 3)]


def test_a_pause_is_long_by_the_length_of_the_steps(program: Program) -> None:
    p = program.process
    for _ in range(3):
        with p.step():
            p.time_ns += S
        p.time_ns += 4 * S
    assert [name for name, *_ in stages(program)] == ["inference"]


def test_training_lasts_to_the_end_of_its_last_optimizer(program: Program) -> None:
    p = program.process
    load(p)
    train(p, 2)
    after = p.alloc("cpu", 8)
    assert stages(program) == [("load", 0, 1), ("training", 1, 7)]
    assert program.rows("steps")[1]["kind"] == "training"
    assert program.rows("allocations")[after["allocation_id"] - 1]["stage"] is None


def test_evaluation_between_epochs_of_training(program: Program) -> None:
    p = program.process
    train(p, 2)
    serve(p, 2)
    train(p, 1)
    assert [name for name, *_ in stages(program)] == ["training", "inference", "training"]
    kinds = [row["kind"] for row in program.rows("steps")]
    assert kinds == ["training", "training", "inference", "inference", "training"]


def test_a_backward_of_another_threads_step_is_not_this_ones(program: Program) -> None:
    p = program.process
    with p.step(thread_id=2):
        p.alloc("cpu", 8)
    train(p, 1)
    program.attributed()
    assert [row["kind"] for row in program.rows("steps")] == ["inference", "training"]


def test_memory_of_a_backward_makes_its_step_training(program: Program) -> None:
    p = program.process
    serve(p, 2)
    p.alloc("cpu", 8, phase="backward", step=1)
    program.attributed()
    assert [row["kind"] for row in program.rows("steps")] == ["training", "inference"]


def test_a_kind_that_somebody_gave_stays(program: Program) -> None:
    serve(program.process, 1, kind="request")
    program.attributed()
    assert [row["kind"] for row in program.rows("steps")] == ["request"]


def test_a_model_loaded_between_two_runs(program: Program) -> None:
    p = program.process
    serve(p, 1)
    load(p)
    train(p, 1)
    p.time_ns += 2 * S
    load(p)
    serve(p, 1)
    assert stages(program) == [
        ("inference", 0, 1), ("load", 1, 2), ("training", 2, 5), ("load", 5, 6),
        ("inference", 6, 7),
    ]  # fmt: skip


def test_a_weight_that_is_made_between_two_steps_does_not_end_their_run(program: Program) -> None:
    p = program.process
    serve(p, 1)
    load(p)
    serve(p, 1)
    assert stages(program) == [("inference", 0, 3)]


def test_memory_that_a_scan_found_does_not_make_a_load(program: Program) -> None:
    p = program.process
    p.alloc("cpu", 8)
    p.name(p.alloc("cpu", 8, action="external"), "w", kind="weight")
    serve(p, 1)
    assert [name for name, *_ in stages(program)] == ["inference"]


@pytest.mark.parametrize("weights", [True, False])
def test_without_steps_there_is_only_loading(program: Program, weights: bool) -> None:
    p = program.process
    p.alloc("cpu", 8)
    if weights:
        load(p)
    p.alloc("cpu", 8)
    assert stages(program) == ([("load", 0, 2)] if weights else [])


def test_a_run_that_never_ended(program: Program) -> None:
    p = program.process
    with p.step() as step:
        p.alloc("cpu", 8)
    p.alloc("cpu", 8)
    step["end_seq"] = step["end_time_ns"] = None
    assert stages(program) == [("inference", 0, 2)]


@pytest.mark.parametrize("name", ["mine", "load", None])
def test_the_users_stages_win(program: Program, name: str | None) -> None:
    p = program.process
    with p.stage(name) if name else nullcontext():
        inside = p.alloc("cpu", 8, stage=name)
    serve(p, 2)
    p.rows["allocations"][1]["stage"] = "load"  # as an older attribution may have found
    rows = program.attributed()
    again = program.rows("stages")
    assert rows[inside["allocation_id"]]["stage"] == name
    assert rows[2]["stage"] == "inference"
    ids = [row["stage_id"] for row in again]
    assert len(set(ids)) == len(ids)
    assert [row["kind"] for row in again] == ["user"] * bool(name) + ["auto"]


@given(st.lists(user_stages, max_size=8))
def test_a_stage_of_a_name_that_is_found_is_the_users_in_any_of_theirs(
    stages: list[UserStage],
) -> None:
    words: list[str] = [*AUTO_NAMES, "mine"]
    codes, born = (part.ravel() for part in np.mgrid[NONE : len(words), -1:32])
    found = StageOf([], stages).is_users(codes.astype(np.int32), words, born)
    for code, seq, is_users in zip(codes.tolist(), born.tolist(), found.tolist(), strict=True):
        theirs = [
            stage
            for stage in stages
            if code != NONE and stage.name == words[code] and stage.begin_seq <= seq < stage.end_seq
        ]
        assert is_users == (bool(theirs) or (code != NONE and words[code] == "mine"))


def test_many_stages_of_such_a_name_take_no_longer_than_few() -> None:
    n = 40_000
    stages = [UserStage("inference", 5 * i, 5 * i + 3) for i in range(n)]
    born = np.arange(5 * n)
    took_s = time.process_time()
    users = StageOf([], stages).is_users(np.zeros(5 * n, np.int32), ["inference"], born)
    assert users.sum() == 3 * n
    assert time.process_time() - took_s < 5  # each by itself: half a minute
