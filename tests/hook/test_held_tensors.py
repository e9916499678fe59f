"""Gradients and states of optimizers by identity: what the trace names is what the objects hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import memtrace
from program_runs import PROGRAMS, recorded

pytest.importorskip("torch", exc_type=ImportError)  # or one that does not load

HELD = PROGRAMS.parent / "cpu" / "held_tensors.py"
CASES = [
    "sgd", "adamw_foreach", "adamw_for_loop", "adamw_fused", "adagrad", "lbfgs", "adafactor",
    "accumulate", "set_to_zero", "own_gradient", "no_model", "sparse", "in_backward",
    "nested_state", "late_parameter",
]  # fmt: skip


def told(trace: memtrace.Trace, kind: str) -> set[tuple[str, int, int, int, str, str]]:
    """Each name of the kind: name, address, storage's bytes, offset, dtype, shape."""
    allocations = {row["allocation_id"]: row for row in trace.allocations.to_pylist()}
    found = set()
    for row in trace.names.to_pylist():
        if row["kind"] == kind:
            memory = allocations[row["allocation_id"]]
            shape = "x".join(map(str, row["shape"]))
            found.add((
                row["name"], memory["address"], memory["size_bytes"], row["offset_bytes"],
                row["dtype"], shape,
            ))  # fmt: skip
    return found


@pytest.mark.parametrize("case", CASES)
def test_what_is_named_is_what_is_held(tmp_path: Path, case: str) -> None:
    trace_path = tmp_path / "t.memtrace"
    shown = recorded(trace_path, HELD, case, cwd=tmp_path)
    assert shown.status == 0, shown.err
    held: dict[str, list[Any]] = json.loads(shown.out)
    trace = memtrace.open(trace_path)
    for kind, tensors in held.items():
        assert told(trace, kind) == {tuple(tensor) for tensor in tensors}, kind
    assert held["gradient"]
