"""Exact on torch's caching host allocator: pinned memory that is live, its blocks and its makers.

Differences are failures, not tolerances.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

import simcuda
from exact.test_cpu import Traced, run

pytestmark = pytest.mark.cuda_sim

SETTINGS = {
    "default": "",
    "background": "pinned_use_background_threads:True",
}


@pytest.fixture(scope="module", params=SETTINGS)
def traced(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Traced:
    environment = {**simcuda.environment(), "PYTORCH_ALLOC_CONF": SETTINGS[request.param]}
    return run("pinned", tmp_path_factory.mktemp("pinned"), environment)


@pytest.fixture
def main(traced: Traced) -> dict[str, Any]:
    (process,) = [row for row in traced.processes if row["start_method"] == "main"]
    return process


def stages(traced: Traced, main: dict[str, Any]) -> list[dict[str, Any]]:
    found = [row for row in traced.stages if row["process"] == main["process"]]
    found.sort(key=lambda row: row["stage_id"])
    assert [row["name"] for row in found] == [mark["name"] for mark in traced.account]
    return found


def before(rows: list[dict[str, Any]], seq: int) -> list[dict[str, Any]]:
    return [row for row in rows if row["device"] == "cpu" and row["alloc_seq"] < seq]


def test_live_pinned_memory_is_what_the_program_holds(traced: Traced, main: dict[str, Any]) -> None:
    rows = traced.of(main["process"])
    totals = {
        row["seq"]: row["allocated_bytes"]
        for row in traced.events
        if row["process"] == main["process"] and row["device"] == "cpu"
    }
    assert len(traced.account) == 19
    for stage, mark in zip(stages(traced, main), traced.account, strict=True):
        seq = stage["start_seq"]
        live = [r for r in before(rows, seq) if r["free_seq"] is None or r["free_seq"] >= seq]
        ours = Counter((row["address"], row["size_bytes"], row["memory"]) for row in live)
        pinned = set(map(tuple, mark["pinned"]))
        theirs = {(*storage, "pinned") for storage in pinned}
        theirs |= {(*storage, "host") for storage in set(map(tuple, mark["own"])) - pinned}
        assert pinned
        assert ours == Counter(theirs), mark["name"]
        last = max(row for row in totals if row < seq)
        assert totals[last] == sum(row["block_bytes"] for row in live), mark["name"]
    assert main["lost_total"] == 0
    assert main["unmatched_frees"] == 0


def test_each_block_is_torchs_own(traced: Traced, main: dict[str, Any]) -> None:
    rows = [row for row in traced.of(main["process"]) if row["memory"] == "pinned"]
    assert len(rows) >= 30
    for stage, mark in zip(stages(traced, main), traced.account, strict=True):
        given = before(rows, stage["start_seq"])
        assert len(given) == mark["blocks"], mark["name"]
        assert sum(row["block_bytes"] for row in given) == mark["block_bytes"], mark["name"]
    assert {row["block_bytes"] for row in rows if row["size_bytes"] == 4097} == {8192}


def test_each_has_its_operator_and_line(traced: Traced, main: dict[str, Any]) -> None:
    rows = [row for row in traced.of(main["process"]) if row["memory"] == "pinned"]
    functions = {(row["operator"], row["source"].split(" ")[-1]) for row in rows}
    assert functions >= {
        ("aten::empty", "main"), ("aten::_pin_memory", "main"), ("aten::_pin_memory", "copies"),
        ("aten::_to_copy", "copies"), ("aten::empty", "copies"),
        ("aten::_pin_memory", "Thread.run"),  # the DataLoader's
    }  # fmt: skip
    assert all(operator for operator, function in functions if function != "main")
