"""Shares of exactly 100 %, groups that partition, and figures for what has no owner."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memtrace.analyse.breakdown import (
    GROUP,
    GROUPINGS,
    OTHER,
    UNATTRIBUTED,
    UNMATCHED,
    UNUSED,
    break_down,
    columns_for,
    not_recorded,
    share_permilles,
)
from memtrace.analyse.live_set import BYTES
from memtrace.errors import MemtraceError
from memtrace.schema import SCHEMAS

ROWS = st.lists(
    st.tuples(
        st.sampled_from([None, "a", "b", "c", "d", "e"]),
        st.sampled_from([None, "x.py:1 f", "y.py:2 g"]),
        st.integers(0, 2**45),
    ),
    max_size=40,
)


def live_set(rows: list[tuple[str | None, str | None, int]]) -> pa.Table:
    return pa.table(
        {
            "operator": pa.array([row[0] for row in rows], pa.string()),
            "source": pa.array([row[1] for row in rows], pa.string()),
            "size_bytes": pa.array([row[2] // 2 for row in rows], pa.int64()),
            BYTES: pa.array([row[2] for row in rows], pa.int64()),
        }
    )


@given(st.lists(st.integers(0, 2**50), max_size=50))
def test_shares_sum_to_exactly_one_hundred_percent(totals: list[int]) -> None:
    shares = share_permilles(totals)
    whole = sum(totals)
    assert sum(shares) == (1000 if whole else 0)
    for share, total in zip(shares, totals, strict=True):
        assert whole == 0 or abs(share - 1000 * total / whole) < 1
        assert share >= 0


@given(ROWS, st.none() | st.integers(1, 7), st.integers(0, 2**40), st.integers(0, 2**40))
def test_groups_partition_the_total(
    rows: list[tuple[str | None, str | None, int]], top: int | None, unused: int, missing: int
) -> None:
    whole = sum(row[2] for row in rows) + unused + missing
    held = break_down(
        live_set(rows), by="operator", total_bytes=whole, top=top, unused_bytes=unused
    )
    by_kind = {
        kind: sum(row.total_bytes for row in held.rows if row.kind == kind)
        for kind in (GROUP, OTHER, UNATTRIBUTED, UNUSED, UNMATCHED)
    }
    assert held.total_bytes == whole == sum(by_kind.values())
    assert by_kind[UNATTRIBUTED] == sum(size for name, _, size in rows if name is None)
    assert by_kind[UNUSED] == unused
    assert by_kind[UNMATCHED] == missing
    assert held.unattributed_bytes == by_kind[UNATTRIBUTED] + missing
    assert sum(row.share_permille for row in held.rows) == (1000 if whole else 0)
    assert sum(row.allocations for row in held.rows) == len(rows)
    assert sum(row.requested_bytes for row in held.rows) == sum(row[2] // 2 for row in rows)
    named = [row for row in held.rows if row.kind == GROUP]
    assert top is None or len(named) <= top
    assert named == sorted(named, key=lambda row: (-row.total_bytes, row.key))
    for row in named:
        assert row.total_bytes == sum(size for name, _, size in rows if name == row.key)


def test_says_where_most_of_a_group_is_from() -> None:
    rows = [("a", "x.py:1 f", 10), ("a", "y.py:2 g", 30), ("a", None, 29), ("b", None, 5)]
    groups = break_down(live_set(rows), by="operator").rows
    assert [(row.key, row.mostly) for row in groups] == [("a", "y.py:2 g"), ("b", None)]


@pytest.mark.parametrize("unknown", [None, ""])
def test_names_no_line_where_most_of_a_group_has_none(unknown: str | None) -> None:
    rows = [("a", "x.py:1 f", 20), ("a", unknown, 400)]
    (row,) = break_down(live_set(rows), by="operator").rows
    assert row.mostly is None


@pytest.mark.parametrize(
    ("by", "process", "words"),
    [
        ("operator", {"operators_on": False}, "operators were not recorded"),
        (
            "top_operator",
            {"operators_on": False, "stacks_on": False},
            "operators were not recorded",
        ),
        ("module", {"stacks_on": False}, "stacks were not recorded"),
        ("source", {"stack_min_bytes": 20_000}, "no Python line; no stacks below 20,000 bytes"),
        ("operator", {"operators_on": True, "stacks_on": False, "stack_min_bytes": 9}, None),
        ("stack", {"stacks_on": None, "stack_min_bytes": 0}, None),
        ("category", {"operators_on": False, "stacks_on": False}, None),
    ],
)
def test_says_what_was_switched_off(by: str, process: dict[str, object], words: str | None) -> None:
    assert not_recorded(by, process) == words


def test_says_by_how_much_the_rows_exceed_the_total() -> None:
    held = break_down(live_set([("a", None, 10)]), by="operator", total_bytes=4)
    assert (held.total_bytes, held.excess_bytes) == (10, 6)


def test_every_grouping_is_a_column_of_the_format() -> None:
    for by in GROUPINGS:
        assert set(columns_for(by)) <= set(SCHEMAS["allocations"].names)


def test_an_unknown_grouping_is_refused() -> None:
    with pytest.raises(MemtraceError, match="cannot group by colour; there are operator"):
        columns_for("colour")
