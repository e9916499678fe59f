"""What a tensor is survives whatever programs do with it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import simcuda
from truth.comparison import run, shown

pytestmark = pytest.mark.timeout(120)

CASES = (
    "other_dtypes_between_calls", "data_exchanged", "parameters_replaced", "average_of_a_model",
    "assigned_state", "born_on_meta", "functional", "accumulated", "autocast",
    "autocast_inference", "checkpointed", "compiled_optimizer", "hogwild", "in_a_thread",
    "adversaries", "backward_in_forward",
    "graph_retained", "exception_in_forward", "results_kept", "before_the_recording",
    "data_parallel", "data_parallel_of_two", "fully_sharded",
)  # fmt: skip
ON_CPU = (*CASES, "mapped_file", "compiled_autograd")
ON_CUDA = (*CASES, "capturable_optimizer")


@pytest.mark.parametrize(
    ("case", "device"),
    [
        *((case, "cpu") for case in ON_CPU),
        *(pytest.param(case, "cuda", marks=pytest.mark.cuda_sim) for case in ON_CUDA),
    ],
)
def test_every_storage_is_what_the_objects_say(case: str, device: str, tmp_path: Path) -> None:
    if device == "cuda":
        if reason := simcuda.unavailable():
            pytest.skip(reason)
        env = simcuda.environment(simcuda.Machine(memory_mb=2048))
    else:
        pytest.importorskip("torch", exc_type=ImportError)
        env = dict(os.environ)
    itself = case == "before_the_recording"
    found = run(case, device, tmp_path, env, program="truth.identity", records_itself=itself)
    table = found.confusion()
    wrong = {cell: size for cell, size in table.items() if cell[0] != cell[1] and size}
    assert not wrong, shown(table)
    names: dict[int, set[str]] = {}
    for row in found.trace.names.to_pylist():
        names.setdefault(row["allocation_id"], set()).add(row["name"])
    for instant, categories in found.truth["instants"].items():
        live = found.live_at(instant)
        known = {at: category for category, items in categories.items() for at, _ in items}
        for address, row in live.items():
            # What is said to be other is not all of it; numbers beside a tensor are saved as well.
            is_number = row["size_bytes"] <= 8
            if row["category"] in categories and row["category"] != "other" and not is_number:
                assert known.get(address) == row["category"], (instant, row)
        for address, name in found.truth["names"].get(instant, {}).items():
            row = live[int(address)]
            assert name in names[row["allocation_id"]], (instant, row)
