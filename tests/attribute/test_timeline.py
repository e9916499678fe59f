"""Bytes of each category over time: exact in every bin, and never too many bins."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from attributed_program import Program
from memtrace.attribute.timeline import MOST_BINS, Bins


def category_rows(program: Program) -> list[dict[str, Any]]:
    return [row for row in program.rows("timeline") if row["metric"] == "category"]


def test_each_category_of_each_device(program: Program) -> None:
    p = program.process
    p.tick_ns = 10_000  # a bin each
    p.rows["timeline"].append({"device": "cpu", "metric": "allocated", "bin_start_ns": 0})
    weight, other = p.alloc("cpu", 100), p.alloc("cpu", 50)
    p.name(weight, "w", kind="weight")
    p.alloc("cpu", 9, action="external")  # not the allocator's
    p.alloc("cuda:0", 512)
    p.free(other)
    program.attributed()
    assert len(program.rows("timeline")) == 5
    found = [
        (row["device"], row["key"], row["min_bytes"], row["max_bytes"], row["last_bytes"])
        for row in category_rows(program)
    ]
    assert found == [
        ("cpu", "weight", 0, 100, 100), ("cpu", "other", 0, 50, 50), ("cpu", "other", 0, 50, 0),
        ("cuda:0", "other", 0, 512, 512),
    ]  # fmt: skip


def test_a_free_that_was_lost_counts_where_the_allocation_ended(program: Program) -> None:
    p = program.process
    p.tick_ns = 10_000
    lost = p.alloc("cpu", 100)
    p.alloc("cpu", 30)
    lost |= {"free_seq": p.seq, "free_time_ns": p.time_ns}  # its address was handed out again
    p.free(p.alloc("cpu", 5))
    program.attributed()
    assert [row["last_bytes"] for row in category_rows(program)] == [100, 30, 35, 30]


def test_a_block_counts_until_its_free_is_requested(program: Program) -> None:
    p = program.process
    p.tick_ns = 10_000
    row = p.alloc("cuda:0", 512)
    p.free(row, hold=True)
    for _ in range(4):  # a row group: the free is completed in another one
        p.alloc("cpu", 8)
    p.release(row)
    program.attributed()
    rows = [row for row in category_rows(program) if row["device"] == "cuda:0"]
    assert [row["last_bytes"] for row in rows] == [512, 0]


changes = st.lists(
    st.tuples(st.integers(0, 5_000), st.integers(0, 3), st.integers(-50, 50)),
    min_size=1, max_size=60,
)  # fmt: skip


@given(st.lists(changes, max_size=4), st.integers(1, 300))
def test_bins_are_exact_however_they_are_joined(
    batches: list[list[tuple[int, int, int]]], most: int
) -> None:
    bins = Bins()
    time_ns = 0
    held = [0] * 4
    history: list[tuple[int, int, int, int]] = []
    for batch in batches:
        rows = []
        for gap, category, delta in batch:
            time_ns += gap
            history.append((time_ns, category, held[category], held[category] + delta))
            held[category] += delta
            rows.append((time_ns, category, delta))
        bins.add(*np.array(rows, np.int64).T)
        bins._join_to(most)
    for category, (begins, least, most_, last) in bins.rows():
        mine = [row for row in history if row[1] == category]
        width = 1 << bins._shift
        assert begins.tolist() == sorted({row[0] // width * width for row in mine})
        for place, low, high, final in zip(begins, least, most_, last, strict=True):
            inside = [row for row in mine if row[0] // width * width == place]
            values = [value for row in inside for value in row[2:]]
            assert (low, high, final) == (min(values), max(values), inside[-1][3])


def test_there_are_never_too_many_bins() -> None:
    bins = Bins()
    n = 40 * MOST_BINS
    time_ns = np.arange(n) << 11
    bins.add(time_ns, np.arange(n) % 7, np.ones(n, np.int64))
    found = list(bins.rows())
    assert len(found) == 7
    assert MOST_BINS // 4 < sum(columns.shape[1] for _, columns in found) <= MOST_BINS
    assert sum(int(columns[3][-1]) for _, columns in found) == n
