"""What holds of every attribution, whatever the program did."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attributed_program import Program
from memtrace.analyse.peak import find_peak
from memtrace.attribute import rows as attribute_rows
from memtrace.attribute.in_place import attribute_again
from memtrace.attribute.intervals import KINDS
from memtrace.attribute.names import IDENTITIES
from memtrace.categories import CATEGORIES
from memtrace.schema import ATTRIBUTION_VERSION
from memtrace.trace import open_trace
from trace_builder import ProcessBuilder

MARKS = [f"{kind}_{end}" for kind in KINDS for end in ("begin", "end")]

# A program: what it does, one after the other; numbers choose among what there is.
actions = st.lists(
    st.one_of(
        st.tuples(
            st.just("alloc"),
            st.sampled_from(["cpu", "cuda:0"]),
            st.sampled_from(["forward", "backward", "optimizer", "other", None]),
        ),
        st.tuples(st.just("free"), st.integers(0, 50), st.none()),
        st.tuples(
            st.just("name"), st.integers(0, 50), st.sampled_from([*IDENTITIES, "label", "else"])
        ),
        st.tuples(st.just("mark"), st.sampled_from(MARKS), st.sampled_from(["1", "2", None])),
        st.tuples(st.just("step"), st.booleans(), st.sampled_from([None, "Error"])),
        st.tuples(st.just("label"), st.integers(0, 50), st.sampled_from(CATEGORIES)),
        st.tuples(st.just("end"), st.integers(1, 2), st.none()),
        st.tuples(st.just("oom"), st.none(), st.none()),
        st.tuples(st.just("wait"), st.integers(0, 3), st.none()),
    ),
    max_size=60,
)


def run(p: ProcessBuilder, program: list[tuple[Any, Any, Any]]) -> None:
    live: list[dict[str, Any]] = []
    steps: dict[int, Any] = {}
    for i, (action, what, which) in enumerate(program):
        every = p.rows["allocations"]
        thread = 1 + i % 2
        if action == "alloc":
            step = p.rows["steps"][-1]["step"] if p.rows["steps"] else None
            live.append(
                p.alloc(what, 100 + i, phase=which, step=step, thread_id=thread, category=None)
            )
        elif action == "free" and live:
            p.free(live.pop(what % len(live)))
        elif action == "name" and every:
            p.name(every[what % len(every)], f"grad of m{i}.w", kind=which, since_seq=p.seq + 1)
        elif action == "label" and every:
            every[what % len(every)] |= {"category": which, "category_by": "label"}
        elif action == "mark":
            p.mark(what, text=which, thread_id=thread)
        elif action == "step" and thread not in steps:
            steps[thread] = p.step(grad_enabled=what, error=which, thread_id=thread)
            steps[thread].__enter__()
        elif action == "end" and what in steps:
            steps.pop(what).__exit__(None, None, None)
        elif action == "oom":
            p._event("cuda:0", "oom", {"address": None, "size_bytes": 1})
        elif action == "wait":
            p.time_ns += what * 1_000_000_000
    for row in p.rows["steps"]:
        row.setdefault("end_seq", None)


def contents(path: Path) -> dict[str, list[dict[str, Any]]]:
    return {name: pq.read_table(path / name).to_pylist() for name in attribute_rows.DATASETS}


@settings(max_examples=60, deadline=None)
@given(actions, st.integers(1, 4), st.integers(1, 5))
def test_every_row_has_a_category_and_nothing_else_changes(
    done: list[tuple[Any, Any, Any]], parts: int, rows_per_group: int
) -> None:
    with TemporaryDirectory() as folder:
        program = Program(Path(folder) / "t.memtrace")
        run(program.process, done)
        before = list(program.process.rows["allocations"])
        program.attributed(parts=parts, rows_per_group=rows_per_group)
        first = contents(program.path)
        rows = sorted(first["allocations"], key=lambda row: row["allocation_id"])
        assert {row["category"] for row in rows} <= set(CATEGORIES)
        for row, old in zip(rows, before, strict=True):
            by_rule = {None} if row["category"] == "other" else {"identity", "lifetime"}
            assert row["category_by"] in by_rule | {"label"}
            same = ("address", "size_bytes", "alloc_seq", "free_seq", "operator", "phase", "step")
            assert [row[name] for name in same] == [old.get(name) for name in same]
        attribute_again(program.path, program.process.key)
        assert contents(program.path) == first
        check_sums(program)


def check_sums(program: Program) -> None:
    trace = open_trace(program.path)
    for device in trace.devices:
        peak = find_peak(trace, device=device, by="category")
        assert peak.breakdown.unattributed_bytes == 0
        assert sum(row.total_bytes for row in peak.breakdown.rows) == peak.total_bytes
        totals = {
            row["key"]: row["last_bytes"]
            for row in program.rows("timeline")
            if row["metric"] == "category" and row["device"] == device
        }
        last = [row for row in program.process.rows["events"] if row["device"] == device][-1]
        assert sum(totals.values()) == last["allocated_bytes"]


def test_the_version_and_the_numbers_of_rows_are_told(program: Program) -> None:
    p = program.process
    p.row["attribution_version"] = 1
    with p.step():
        p.alloc("cpu", 8)
    program.attributed()
    (row,) = program.rows("processes")
    assert row["attribution_version"] == ATTRIBUTION_VERSION
    counts = json.loads(row["dataset_rows"])
    assert (counts["stages"], counts["timeline"], counts["allocations"]) == (1, 1, 1)


def test_columns_that_an_older_trace_lacks(program: Program) -> None:
    p = program.process
    with p.step(grad_enabled=None, error=None):
        p.name(p.alloc("cpu", 8), "w", kind="weight")
    p.mark("backward_begin")
    p.mark("backward_end")
    path = program.write()
    lacks = {"marks": ["thread_id"], "steps": ["grad_enabled", "error"]}
    for name, columns in lacks.items():
        (file,) = (path / name).glob("*/*.parquet")
        pq.write_table(pq.ParquetFile(file).read().drop_columns(columns), file)
    attribute_again(path, p.key)
    assert open_trace(path).allocations.column("category").to_pylist() == ["weight"]
    assert open_trace(path).steps.column("kind").to_pylist() == ["training"]


@pytest.mark.parametrize("rows", [0, 1])
def test_a_process_that_did_next_to_nothing(program: Program, rows: int) -> None:
    for _ in range(rows):
        program.process.alloc("cpu", 0)
    assert len(program.attributed()) == rows
