"""Every allocation of a recorded program has the stack that Python shows where it is made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import memtrace
from program_runs import python

pytest.importorskip("torch")

PROGRAM = Path(__file__).parent.parent / "programs" / "cpu" / "stacks_in_calls.py"
LEAST_BYTES = 1 << 16  # of an allocation whose stack the program wrote down


def stacks_by_size(trace: Path) -> dict[int, Any]:
    """{bytes of an allocation: its frames}, as the program writes them down."""
    opened = memtrace.open(trace)
    stacks: dict[int, list[Any]] = {}
    for row in sorted(opened.stacks.to_pylist(), key=lambda row: (row["stack_id"], row["depth"])):
        module = [row["module_class"], row["module"]] if row["module_class"] else None
        stacks.setdefault(row["stack_id"], []).append(
            [row["function"], row["file"], row["line"], module]
        )
    rows = [row for row in opened.allocations.to_pylist()
            if row["size_bytes"] >= LEAST_BYTES and row["origin"] == "recorded"]  # fmt: skip
    found = {row["size_bytes"]: stacks[row["stack_id"]] for row in rows}
    assert len(found) == len(rows)
    return found


def test_every_allocation_has_the_true_stack(tmp_path: Path) -> None:
    shown = python(PROGRAM, tmp_path)
    assert (shown.status, shown.err) == (0, b"")
    accounts = sorted(tmp_path.glob("*.json"))
    assert len(accounts) == 4
    for account in accounts:
        expected = {int(size): rows for size, rows in json.loads(account.read_text()).items()}
        found = stacks_by_size(account.with_suffix(".memtrace"))
        wrong = {size: (found.get(size), rows) for size, rows in expected.items()
                 if found.get(size) != rows}  # fmt: skip
        assert (len(wrong), next(iter(wrong.items()), None)) == (0, None), account
        assert found.keys() == expected.keys()
