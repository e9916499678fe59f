"""Compares the backward memory of a trace with what anomaly mode says of each node."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import memtrace
from program_runs import PROGRAMS, recorded

ORACLE = PROGRAMS.parent / "cpu" / "backward_of_models.py"
MAIN_THREAD = 1
MODELS = [
    "views", "in_place", "custom", "checkpoint", "reentrant", "shared", "net", "double",
    "transformer",
]  # fmt: skip


def owners(trace: memtrace.Trace) -> list[tuple[dict[str, Any], str | None]]:
    """Each allocation, with the innermost node that it was made in, as the oracle numbers it.

    None: made in no node, or by the engine between two.
    """
    calls = {row["call_id"]: row for row in trace.operators.to_pylist()}
    found = []
    for allocation in trace.allocations.to_pylist():
        number = None
        call = calls.get(allocation["operator_call_id"])
        while call is not None:
            if call["scope"] == "backward_function":
                forward = calls.get(call["forward_call_id"], {"thread_id": MAIN_THREAD})
                number = "" if forward["thread_id"] == MAIN_THREAD else "engine "
                number += str(call["sequence_number"])
                break
            if call["forward_call_id"] is not None:
                break  # the engine's
            call = calls.get(call["parent_call_id"])
        found.append((allocation, number))
    return found


def check_with_oracle(tmp_path: Path, model: str, *words: str, **more: Any) -> None:
    trace = tmp_path / "t.memtrace"
    shown = recorded(trace, ORACLE, model, *words, cwd=tmp_path, **more)
    assert shown.status == 0, shown.err
    oracle = json.loads(shown.out)
    wrong, right_bytes, recomputed_bytes = [], 0, 0
    for row, number in owners(memtrace.open(trace)):
        # The node that a node of an in-place operator on a view runs inside itself is in no graph.
        if number is None or number not in oracle:
            continue
        if row["phase"] == "forward":  # checkpointing's
            recomputed_bytes += row["size_bytes"]
            assert row["module"].startswith("blocks."), row
            continue
        line, module = oracle[number][0].partition(" ")[0], oracle[number][1]
        if (row["source"].partition(" ")[0], row["module"]) == (line, module):
            right_bytes += row["size_bytes"]
            assert row["forward_operator"] is not None
            assert row["phase"] == "backward"
        else:
            wrong.append((row["source"], row["module"], number, line, module))
    assert not wrong
    assert right_bytes > 10_000
    assert (recomputed_bytes > 0) == (model in {"checkpoint", "reentrant"})
