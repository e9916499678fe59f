"""Each rule of the table in categories.py, on a program made for it."""

from __future__ import annotations

from typing import Any

import pytest

from attributed_program import Program
from trace_builder import ProcessBuilder

FORWARD = {"phase": "forward"}
BACKWARD = {"phase": "backward"}


def verdict(rows: dict[int, dict[str, Any]], row: dict[str, Any]) -> tuple[str, str | None]:
    found = rows[row["allocation_id"]]
    return found["category"], found["category_by"]


def category(rows: dict[int, dict[str, Any]], row: dict[str, Any]) -> str:
    return verdict(rows, row)[0]


def alloc(process: ProcessBuilder, **columns: Any) -> dict[str, Any]:
    return process.alloc("cuda:0", 1000, category=None, **columns)


# ---- identity and label --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (["output", "weight"], "weight"),
        (["gradient", "buffer"], "buffer"),
        (["optimizer_state", "gradient"], "gradient"),
        (["kv_cache", "optimizer_state"], "optimizer_state"),
        (["output", "kv_cache", "input"], "kv_cache"),
        (["output", "input"], "input"),
        (["label", "output"], "output"),
        (["label"], "other"),
        (["what another version knows"], "other"),
    ],
)
def test_the_earliest_category_of_the_names(
    program: Program, kinds: list[str], expected: str
) -> None:
    row = alloc(program.process)
    for i, kind in enumerate(kinds):
        program.process.name(row, f"n{i}", kind=kind, since_seq=i)
    by = "identity" if expected != "other" else None
    assert verdict(program.attributed(), row) == (expected, by)


def test_a_label_takes_part_in_the_order(program: Program) -> None:
    p = program.process
    said = {"category": "kv_cache", "category_by": "label"}
    later, earlier, alone = (p.alloc("cpu", 64, **said) for _ in range(3))
    p.name(later, "x", kind="input")
    p.name(earlier, "w", kind="weight")
    rows = program.attributed()
    assert verdict(rows, later) == ("kv_cache", "label")
    assert verdict(rows, earlier) == ("weight", "identity")
    assert verdict(rows, alone) == ("kv_cache", "label")


def test_what_an_older_attribution_found_does_not_stay(program: Program) -> None:
    row = program.process.alloc("cpu", 64, category="gradient", category_by="identity")
    assert verdict(program.attributed(), row) == ("other", None)


# ---- activation ----------------------------------------------------------------------------------


def test_saved_for_backward(program: Program) -> None:
    p = program.process
    with p.step(grad_enabled=True) as step:
        saved = alloc(p, step=1, **FORWARD)
        dies = alloc(p, step=1, **FORWARD)
        p.free(dies)
        hidden = alloc(p, step=1, **FORWARD)
    loss = alloc(p, **FORWARD)
    never_saved = alloc(p, **FORWARD)
    p.free(never_saved)
    with p.marked("backward", text="7"):
        gradient = alloc(p, step=1, **BACKWARD)
        p.free(saved)
        p.free(loss)
        p.free(gradient)
    p.free(hidden)
    rows = program.attributed()
    assert verdict(rows, saved) == ("activation", "lifetime")
    assert verdict(rows, loss) == ("activation", "lifetime")
    assert verdict(rows, dies) == ("temporary", "lifetime")
    assert verdict(rows, gradient) == ("temporary", "lifetime")
    assert verdict(rows, hidden) == ("other", None)
    assert verdict(rows, never_saved) == ("other", None)
    assert step["end_seq"] is not None


def test_saved_for_a_later_backward(program: Program) -> None:
    p = program.process
    with p.step(grad_enabled=True):
        saved = alloc(p, step=1, **FORWARD)
    with p.marked("backward", text="1"):
        p.free(alloc(p, **BACKWARD))
    with p.marked("backward", text="2"):
        p.free(saved)
    assert category(program.attributed(), saved) == "activation"


def test_backwards_of_two_threads_overlap(program: Program) -> None:
    p = program.process
    with p.step(grad_enabled=True):
        first = alloc(p, step=1, **FORWARD)
    p.mark("backward_begin", text="1")
    # Another thread computes forward while this one runs its backward: nothing is recomputed.
    with p.step(grad_enabled=True, thread_id=2):
        crossing = alloc(p, step=2, thread_id=2, **FORWARD)
        second = alloc(p, step=2, thread_id=2, **FORWARD)
        kept = alloc(p, step=2, thread_id=2, **FORWARD)
        dies = alloc(p, step=2, thread_id=2, **FORWARD)
        p.free(dies)
    p.free(crossing)  # in the backward of the other thread, which was first: not saved for it
    p.mark("backward_begin", text="2", thread_id=2)
    p.free(first)
    p.mark("backward_end", text="1")
    p.free(second)
    p.mark("backward_end", text="2", thread_id=2)
    p.free(kept)
    rows = program.attributed()
    assert [category(rows, row) for row in (first, second, kept, dies, crossing)] == [
        "activation", "activation", "other", "temporary", "other",
    ]  # fmt: skip


def test_recomputed_in_a_checkpoint(program: Program) -> None:
    p = program.process
    with p.step(grad_enabled=True):
        pass
    with p.marked("backward", text="1"):
        with p.marked("recompute"):
            again = alloc(p, step=1, **FORWARD)
            dies = alloc(p, step=1, **FORWARD)
            p.free(dies)
        p.free(again)
    rows = program.attributed()
    assert category(rows, again) == "activation"
    assert category(rows, dies) == "temporary"


def test_recomputed_by_a_function_that_is_no_model(program: Program) -> None:
    p = program.process
    with p.marked("backward", text="1"):
        with p.call("aten::gelu") as call:
            again = alloc(p, operator_call_id=call, **FORWARD)
            dies = alloc(p, operator_call_id=call, **FORWARD)
            p.free(dies)
        p.free(again)
    rows = program.attributed()
    assert category(rows, again) == "activation"
    assert category(rows, dies) == "temporary"


def test_what_a_backward_that_ran_out_of_memory_would_have_freed(program: Program) -> None:
    p = program.process
    with p.step(grad_enabled=True):
        saved, freed_late = (alloc(p, step=1, **FORWARD) for _ in range(2))
    with p.marked("backward", text="1"):
        half_done = alloc(p, step=1, **BACKWARD)
        p._event("cuda:0", "oom", {"address": None, "size_bytes": 1 << 40})
    p.free(freed_late)
    rows = program.attributed()
    assert [category(rows, row) for row in (saved, freed_late, half_done)] == [
        "activation", "activation", "temporary",
    ]  # fmt: skip


def test_a_process_that_died_in_its_backward(program: Program) -> None:
    p = program.process
    with p.step(grad_enabled=True):
        saved = alloc(p, step=1, **FORWARD)
    p.mark("backward_begin", text="1")
    under_way = alloc(p, step=1, **BACKWARD)
    rows = program.attributed()
    assert (category(rows, saved), category(rows, under_way)) == ("activation", "temporary")


def graph_without_backward(p: ProcessBuilder, *, grad: bool) -> list[dict[str, Any]]:
    with p.step(grad_enabled=grad):
        saved, hidden, output = (alloc(p, step=1, **FORWARD) for _ in range(3))
        p.name(output, "logits", kind="output", since_seq=p.seq + 1)
    return [saved, hidden, output]


@pytest.mark.parametrize("grad", [True, False])
def test_a_graph_that_no_backward_uses_goes_with_the_outputs(program: Program, grad: bool) -> None:
    p = program.process
    saved, hidden, output = graph_without_backward(p, grad=grad)
    p.free(saved)  # the graph goes before the memory of the output that held it
    p.free(output)
    for _ in range(8):
        p.free(alloc(p))
    p.free(hidden)
    rows = program.attributed()
    assert category(rows, saved) == ("activation" if grad else "other")
    assert category(rows, output) == "output"
    assert category(rows, hidden) == "other"


@pytest.mark.parametrize("output_freed", [True, False])
def test_a_graph_that_nobody_frees(program: Program, output_freed: bool) -> None:
    p = program.process
    saved, _, output = graph_without_backward(p, grad=True)
    if output_freed:
        p.free(output)
    assert category(program.attributed(), saved) == ("other" if output_freed else "activation")


def test_a_hidden_tensor_of_training_is_no_activation(program: Program) -> None:
    p = program.process
    saved, hidden, _ = graph_without_backward(p, grad=True)
    with p.marked("backward", text="1"):
        p.free(saved)
    rows = program.attributed()
    assert (category(rows, saved), category(rows, hidden)) == ("activation", "other")


@pytest.mark.parametrize(("grad", "expected"), [(True, "activation"), (False, "temporary")])
def test_a_step_that_raised(program: Program, grad: bool, expected: str) -> None:
    p = program.process
    with p.step(grad_enabled=grad, error="OutOfMemoryError"):
        held, dies = (alloc(p, step=1, **FORWARD) for _ in range(2))
        p.free(dies)
    p.free(held)
    rows = program.attributed()
    assert (category(rows, held), category(rows, dies)) == (expected, "temporary")


@pytest.mark.parametrize(("grad", "expected"), [(True, "activation"), (False, "temporary")])
def test_a_step_that_never_ended(program: Program, grad: bool, expected: str) -> None:
    p = program.process
    with p.step(grad_enabled=grad) as step:
        held, dies = (alloc(p, step=1, **FORWARD) for _ in range(2))
        p.free(dies)
    step["end_seq"] = step["end_time_ns"] = None
    rows = program.attributed()
    assert (category(rows, held), category(rows, dies)) == (expected, "temporary")


# ---- temporary -----------------------------------------------------------------------------------


def test_temporaries_of_an_optimizer(program: Program) -> None:
    p = program.process
    with p.marked("optimizer"):
        dies, stays = (alloc(p, phase="optimizer") for _ in range(2))
        p.free(dies)
    p.free(stays)
    rows = program.attributed()
    assert (category(rows, dies), category(rows, stays)) == ("temporary", "other")


def test_it_dies_in_an_operator_or_in_one_around_it(program: Program) -> None:
    p = program.process
    with p.call("user code", scope="user_scope") as user, p.call("aten::outer") as outer:
        with p.call("aten::empty", parent_call_id=outer) as inner:
            own = p.alloc("cpu", 8, operator_call_id=inner)
            p.free(own)
            around = p.alloc("cpu", 8, operator_call_id=inner)
            outlives = p.alloc("cpu", 8, operator_call_id=inner)
        p.free(around)
    p.free(outlives)
    with p.call("user code", scope="user_scope") as user:
        of_user = p.alloc("cpu", 8, operator_call_id=user)
        p.free(of_user)
    rows = program.attributed()
    assert [category(rows, row) for row in (own, around, outlives, of_user)] == [
        "temporary", "temporary", "other", "other",
    ]  # fmt: skip


def test_without_steps_and_operators_nothing_is_claimed(program: Program) -> None:
    p = program.process
    kept, freed = alloc(p), alloc(p)
    p.free(freed)
    rows = program.attributed()
    assert [verdict(rows, row) for row in (kept, freed)] == [("other", None)] * 2
