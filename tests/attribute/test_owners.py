"""Labels, and the modules of gradients and optimizer state."""

from __future__ import annotations

from typing import Any

from attributed_program import Program


def shown(row: dict[str, Any]) -> tuple[str | None, str | None, str | None]:
    return row["label"], row["module"], row["module_class"]


def known_modules(program: Program) -> None:
    program.process.rows["stacks"] += [
        {"stack_id": 1, "depth": 0, "module": "h.0.fc", "module_class": "Linear"},
        {"stack_id": 1, "depth": 1, "module": "Model", "module_class": "Model"},
    ]


def test_the_label_is_the_users_else_the_name_that_is_the_category(program: Program) -> None:
    p = program.process
    tied, labelled, none = (p.alloc("cpu", 8, label="left by another version") for _ in range(3))
    p.name(tied, "x", kind="input", since_seq=0)
    p.name(tied, "head.weight", kind="weight", since_seq=5)
    p.name(tied, "embed.weight", kind="weight", since_seq=4)
    p.name(labelled, "w", kind="weight", since_seq=1)
    p.name(labelled, "mine, later", kind="label", since_seq=9)
    p.name(labelled, "mine", kind="label", since_seq=8)
    rows = program.attributed()
    assert [rows[row["allocation_id"]]["label"] for row in (tied, labelled, none)] == [
        "embed.weight", "mine", None,
    ]  # fmt: skip


def test_a_label_with_a_category_and_no_name_shows_nothing_else(program: Program) -> None:
    row = program.process.alloc("cpu", 8, category="kv_cache", category_by="label")
    program.process.name(row, "x", kind="input")
    assert program.attributed()[1]["label"] is None


def test_weights_and_what_is_theirs_belong_to_their_module(program: Program) -> None:
    p = program.process
    known_modules(program)
    gradient, state, unknown, own = (p.alloc("cpu", 8) for _ in range(4))
    weight, buffer, made = (p.alloc("cpu", 8) for _ in range(3))
    own["module"], own["module_class"] = "h.9.fc", "Other"
    p.name(gradient, "grad of h.0.fc.weight", kind="gradient")
    p.name(state, "sum of squares of h.0.fc.bias", kind="optimizer_state")
    p.name(unknown, "grad of h.1.fc.weight", kind="gradient")
    p.name(own, "grad of h.0.fc.weight", kind="gradient")
    p.name(weight, "h.0.fc.weight", kind="weight")
    p.name(buffer, "h.0.mask", kind="buffer")
    p.name(made, "made", kind="weight")  # of a model that no step has told
    rows = program.attributed()
    assert [shown(rows[row["allocation_id"]]) for row in (gradient, state, unknown, own)] == [
        ("grad of h.0.fc.weight", "h.0.fc", "Linear"),
        ("sum of squares of h.0.fc.bias", "h.0.fc", "Linear"),
        ("grad of h.1.fc.weight", "h.1.fc", None),
        ("grad of h.0.fc.weight", "h.9.fc", "Other"),
    ]
    assert [shown(rows[row["allocation_id"]]) for row in (weight, buffer, made)] == [
        ("h.0.fc.weight", "h.0.fc", "Linear"),
        ("h.0.mask", "h.0", None),
        ("made", None, None),
    ]


def test_parameters_of_the_root_itself(program: Program) -> None:
    p = program.process
    before = p.alloc("cpu", 8)  # whose it is no step has told
    p.name(before, "grad of weight", kind="gradient")
    with p.step(root_module="Small"):
        of_step = p.alloc("cpu", 8, step=1)
    with p.step(root_module="Large"):
        pass
    after = p.alloc("cpu", 8)
    p.name(of_step, "grad of weight", kind="gradient")
    p.name(after, "exp_avg of weight", kind="optimizer_state")
    rows = program.attributed()
    assert shown(rows[before["allocation_id"]])[1:] == (None, None)
    assert shown(rows[of_step["allocation_id"]])[1:] == ("Small", "Small")
    assert shown(rows[after["allocation_id"]])[1:] == ("Large", "Large")


def test_without_a_model_a_root_parameter_has_no_module(program: Program) -> None:
    row = program.process.alloc("cpu", 8)
    program.process.name(row, "grad of weight", kind="gradient")
    assert shown(program.attributed()[1]) == ("grad of weight", None, None)


def test_memory_in_a_pool_of_graphs_is_called_after_the_pool(program: Program) -> None:
    p = program.process
    for pool in ("mempool:7", "default"):
        p.mark("capture_begin", pool=pool if pool != "default" else None)
    p.mark("capture_end", pool="mempool:7")
    p.mark("pool_unref", pool="mempool:8")
    pools = ("graph:3", "mempool:7", "mempool:8", "default", None)
    found = [p.alloc("cuda:0", 8, pool=pool) for pool in pools]
    named = p.alloc("cuda:0", 8, pool="graph:3")
    p.name(named, "logits", kind="output")
    rows = program.attributed()
    assert [rows[row["allocation_id"]]["label"] for row in (*found, named)] == [
        "CUDA graph pool 3", "CUDA graph pool mempool:7", None, None, None, "logits",
    ]  # fmt: skip
