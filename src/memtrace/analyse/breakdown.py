"""Live bytes split by a column: rows that partition the total, with shares of exactly 100 %."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from memtrace.analyse.live_set import BYTES
from memtrace.errors import MemtraceError

#: The columns of `allocations` that bytes can be grouped by, and what a row without one is called.
GROUPINGS = {
    "operator": "outside any operator",
    "module": "outside any module",
    "source": "no Python line",
    "stack": "no stack",
    "label": "no label",
    "category": "no category",
    "top_operator": "outside any operator",
    "forward_operator": "not memory of backward",
    "module_class": "outside any module",
    "phase": "no phase",
    "stage": "outside any stage",
    "step": "outside any step",
    "memory": "unknown",
    "origin": "unknown",
    "pool": "no pool",
    "stream": "no stream",
    "thread_id": "unknown thread",
    "segment_id": "no segment",
}

_OF_OPERATORS = frozenset({"operator", "top_operator", "forward_operator"})
_OF_STACKS = frozenset({"module", "module_class", "source", "stack"})

GROUP, OTHER, UNATTRIBUTED, UNUSED, UNMATCHED = (
    "group", "other", "unattributed", "unused", "unmatched",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One line of a breakdown.

    Attributes:
        kind: "group"; "other" (the groups beyond the top N); "unattributed" (rows without the
            column); "unused" (reserved, but held by no block); "unmatched" (in the device's total,
            in no row of `allocations`).
        key: the value grouped by; for other kinds, words for it.
        mostly: the source line (grouped by source: the operator) that holds most of it; None
            where more of it has none than any one of them holds.
        share_permille: rounded so that the rows of a breakdown sum to exactly 1000.
    """

    kind: str
    key: str
    total_bytes: int
    requested_bytes: int
    allocations: int
    share_permille: int
    mostly: str | None = None


@dataclass(frozen=True)
class Breakdown:
    """Who held `total_bytes`. `excess_bytes`: what the rows hold beyond the device's own total."""

    by: str
    total_bytes: int
    requested_bytes: int
    allocations: int
    rows: tuple[Row, ...]
    unattributed_bytes: int
    excess_bytes: int = 0


def columns_for(by: str) -> list[str]:
    """The columns of `allocations` that a breakdown reads."""
    if by not in GROUPINGS:
        raise MemtraceError(f"cannot group by {by}; there are {', '.join(GROUPINGS)}")
    return [_column(by), _witness(by)]


def not_recorded(by: str, process: Mapping[str, Any]) -> str | None:
    """Why rows of this process (its row of `processes`) may lack a column: it was switched off."""
    if by in _OF_OPERATORS and process.get("operators_on") is False:
        return "operators were not recorded"
    if by in _OF_STACKS and process.get("stacks_on") is False:
        return "stacks were not recorded"
    if by in _OF_STACKS and process.get("stack_min_bytes"):
        return f"{GROUPINGS[by]}; no stacks below {process['stack_min_bytes']:,} bytes"
    return None


def break_down(
    live: pa.Table,
    *,
    by: str,
    total_bytes: int | None = None,
    top: int | None = None,
    unused_bytes: int = 0,
    nameless: str | None = None,
) -> Breakdown:
    """Groups a live set.

    Args:
        live: rows of `live_allocations`.
        total_bytes: the device's own total, if it has one; what no row explains is its own row.
        top: how many groups to name; the rest are one row. None names all.
        unused_bytes: reserved memory that no block holds, a row of its own.
        nameless: what to call rows without the column, where that is not the usual.
    """
    column = columns_for(by)[0]
    groups = _groups(live, column, _witness(by))
    named = [g for g in groups if g.kind == GROUP]
    unnamed = [g for g in groups if g.kind == UNATTRIBUTED]
    rows = named[:top]
    rest = [] if top is None else named[top:]
    if rest:
        word = "group" if len(rest) == 1 else "groups"
        rows.append(
            Row(
                OTHER,
                f"{len(rest):,} other {word}",
                sum(row.total_bytes for row in rest),
                sum(row.requested_bytes for row in rest),
                sum(row.allocations for row in rest),
                0,
            )
        )
    held = sum(row.total_bytes for row in groups) + unused_bytes
    rows += [replace(row, key=nameless or GROUPINGS[by]) for row in unnamed]
    if unused_bytes:
        rows.append(Row(UNUSED, "reserved, held by no block", unused_bytes, 0, 0, 0))
    missing = (held if total_bytes is None else total_bytes) - held
    if missing > 0:
        rows.append(Row(UNMATCHED, "in no recorded allocation", missing, 0, 0, 0))
    shares = share_permilles([row.total_bytes for row in rows])
    return Breakdown(
        by=by,
        total_bytes=held + max(missing, 0),
        requested_bytes=sum(row.requested_bytes for row in rows),
        allocations=live.num_rows,
        rows=tuple(
            replace(row, share_permille=share) for row, share in zip(rows, shares, strict=True)
        ),
        unattributed_bytes=sum(
            row.total_bytes for row in rows if row.kind in (UNATTRIBUTED, UNMATCHED)
        ),
        excess_bytes=max(-missing, 0),
    )


def share_permilles(totals: Sequence[int]) -> list[int]:
    """Tenths of a percent that sum to exactly 1000: the largest remainders are rounded up."""
    whole = sum(totals)
    if whole <= 0:
        return [0] * len(totals)
    shares = [1000 * total // whole for total in totals]
    remainders = [1000 * total % whole for total in totals]
    by_remainder = sorted(range(len(totals)), key=lambda i: (-remainders[i], i))
    for i in by_remainder[: 1000 - sum(shares)]:
        shares[i] += 1
    return shares


def _column(by: str) -> str:
    return "stack_id" if by == "stack" else by


def _witness(by: str) -> str:
    return "operator" if by in ("source", "stack") else "source"


def _groups(live: pa.Table, column: str, witness: str) -> list[Row]:
    keys = [column] if column == witness else [column, witness]
    table = live.select(dict.fromkeys([*keys, BYTES, "size_bytes"])).append_column(
        "rows", pa.array(np.ones(live.num_rows, np.int64))
    )
    sums: Any = [(BYTES, "sum"), ("size_bytes", "sum"), ("rows", "sum")]
    merged: dict[str | None, tuple[int, int, int, int, str | None]] = {}
    for group in table.group_by(keys).aggregate(sums).to_pylist():
        key = group[column]
        name = None if key is None or key == "" else str(key)
        held, most, witnessed = group[f"{BYTES}_sum"], -1, None
        before = merged.get(name, (0, 0, 0, most, witnessed))
        if held > before[3]:
            most, witnessed = held, group[witness] or None
        else:
            most, witnessed = before[3], before[4]
        merged[name] = (
            before[0] + held,
            before[1] + group["size_bytes_sum"],
            before[2] + group["rows_sum"],
            most,
            witnessed,
        )
    rows = [
        Row(GROUP if key is not None else UNATTRIBUTED, key or "", *found[:3], 0, found[4])
        for key, found in merged.items()
    ]
    return sorted(rows, key=lambda row: (-row.total_bytes, row.key))
