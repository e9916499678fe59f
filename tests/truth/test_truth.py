"""Every byte of models of every kind has the owner that the objects themselves name."""

from __future__ import annotations

from pathlib import Path

import pytest

import simcuda
from truth.cases import ON_CPU, ON_CUDA
from truth.comparison import Run, run, shown

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(
    scope="module",
    params=[
        *((name, "cpu") for name in ON_CPU),
        *(pytest.param((name, "cuda"), marks=pytest.mark.cuda_sim) for name in ON_CUDA),
    ],
    ids=lambda param: "-".join(param),
)
def recorded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One model's run."""
    name, device = request.param
    env = None
    if device == "cuda":
        if reason := simcuda.unavailable():
            pytest.skip(reason)
        env = simcuda.environment(simcuda.Machine(memory_mb=2048))
    else:
        pytest.importorskip("torch", exc_type=ImportError)
    folder: Path = tmp_path_factory.mktemp(name)
    return run(name, device, folder, env)


def test_every_storage_has_the_category_that_the_objects_say(recorded: Run) -> None:
    table = recorded.confusion()
    wrong = {cell: size for cell, size in table.items() if cell[0] != cell[1] and size}
    assert not wrong, shown(table)


def test_nothing_else_has_such_a_category(recorded: Run) -> None:
    for instant, categories in recorded.truth["instants"].items():
        known = {address: name for name, items in categories.items() for address, _ in items}
        for address, row in recorded.live_at(instant).items():
            # A number beside a tensor (`x * 0.5`) is saved for the backward as well, but
            # saved_tensors_hooks leave it out.
            is_number = row["operator"] is None and row["size_bytes"] == 8
            if row["category"] in categories and row["size_bytes"] and not is_number:
                assert known.get(address) == row["category"], (instant, row)


def test_sizes_are_the_storages_own(recorded: Run) -> None:
    for instant, categories in recorded.truth["instants"].items():
        live = recorded.live_at(instant)
        for storages in categories.values():
            for address, size_bytes in storages:
                assert live[address]["size_bytes"] == size_bytes, (instant, live[address])


def test_weights_gradients_and_optimizer_state_have_their_names(recorded: Run) -> None:
    names: dict[int, set[str]] = {}
    for row in recorded.trace.names.to_pylist():
        names.setdefault(row["allocation_id"], set()).add(row["name"])
    for instant, expected in recorded.truth["names"].items():
        live = recorded.live_at(instant)
        for address, name in expected.items():
            row = live[int(address)]
            assert name in names[row["allocation_id"]], (instant, row)
            assert row["label"] in names[row["allocation_id"]], (instant, row)


def test_hidden_tensors_come_out_as_other(recorded: Run) -> None:
    for instant in recorded.truth["instants"]:
        live = recorded.live_at(instant)
        for address, size_bytes in recorded.truth["hidden"]:
            row = live[address]
            assert (row["size_bytes"], row["category"]) == (size_bytes, "other"), (instant, row)


@pytest.mark.parametrize(("first", "last"), [("inference", "call_2"), ("training", "zeroed_2")])
def test_at_most_one_percent_of_the_peak_is_other(recorded: Run, first: str, last: str) -> None:
    other, total = recorded.other_at_peak(first, last)
    hidden = sum(size for _, size in recorded.truth["hidden"])
    assert hidden <= other
    assert (other - hidden) / total <= 0.01, (other, total)


def test_memory_of_the_backward_has_the_line_and_the_module_of_its_forward(recorded: Run) -> None:
    calls = {row["call_id"]: row for row in recorded.trace.operators.to_pylist()}
    first, last = recorded.stage_seqs["lines"]
    rows = [
        row
        for row in recorded.rows
        if first <= row["alloc_seq"] < last and row["phase"] == "backward"
    ]
    assert rows
    for row in rows:
        forward = calls.get(row["forward_call_id"])
        if forward is None:  # what adds up gradients has no forward call
            assert "AccumulateGrad" in (row["top_operator"] or ""), row
            continue
        _, line, module = recorded.truth["nodes"][str(forward["sequence_number"])]
        file, _, number = line.rpartition(":")
        assert row["source"].split()[0].endswith(f"{Path(file).name}:{number}"), (row, line)
        assert module in (row["module"], row["module_class"]), (row, line, module)
        assert row["forward_operator"] == forward["name"]
