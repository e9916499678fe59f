"""The gate on instruction counts: what it lets through."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

GATE = Path(__file__).resolve().parents[2] / "benchmarks" / "gate" / "gate.py"


@pytest.fixture(scope="module")
def gate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gate", GATE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["gate"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("counted", "baseline", "more", "less"),
    [
        (1051.0, 1000.0, True, False),
        (1049.0, 1000.0, False, False),
        (949.0, 1000.0, False, True),
        (12.0, 10.0, False, False),  # of few instructions some come and go
        (50.0, None, False, False),
        (50.0, 0.0, True, False),
        (0.0, 0.0, False, False),
        (50.0, -28.0, True, False),  # less than nothing: torch has less to do
        (-29.0, -28.0, False, False),
        (-50.0, -28.0, False, True),
    ],
)
def test_five_percent(
    gate: ModuleType, counted: float, baseline: float | None, more: bool, less: bool
) -> None:
    (verdict,) = gate.judge({"path": counted}, {} if baseline is None else {"path": baseline})
    assert (verdict.costs_more, verdict.costs_less) == (more, less)


def test_a_path_that_is_counted_no_more_is_seen(gate: ModuleType) -> None:
    verdicts = gate.judge({"kept": 1.0}, {"kept": 1.0, "gone": 500.0})
    assert [(one.path, one.costs_less) for one in verdicts] == [("kept", False), ("gone", True)]


DUMP = """desc: Trigger: Client Request: {}
ob=(1) /somewhere/memtrace/_hooks/_hook-torch2.so
fn=(1) on_event
10 500
+1 30
cob=(2) /usr/lib/libc.so.6
cfn=(2) malloc
calls=7 20
+2 4000
* 3
ob=(2)
fn=(2)
20 4000
ob=(3) /somewhere/memtrace/_core.so
30 67
ob=(1)
41 400
totals: 5000
"""


def test_counts_of_dumps(gate: ModuleType) -> None:
    dumps = [
        DUMP.format("a call|own|10"),
        DUMP.format("an analysis|all|100"),
        DUMP.format("an operator|without|100"),
        DUMP.format("an operator|all|10"),
        "desc: Trigger: Client Request\ntotals: 77\n",
    ]
    assert gate._per_unit(dumps) == {"a call": 100.0, "an analysis": 50.0, "an operator": 450.0}
