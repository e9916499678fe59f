"""The table of who held the bytes: shared by every report that has one."""

from __future__ import annotations

from memtrace.analyse.breakdown import GROUP, OTHER, Breakdown, Row
from memtrace.analyse.snapshot import External
from memtrace.analyse.stack import Frame, told_frames
from memtrace.report.page import Column, Grid
from memtrace.report.units import exact, percent, size

_STACK_LINES = 4


def breakdown_grid(
    breakdown: Breakdown,
    stacks: dict[str, tuple[Frame, ...]],
    *,
    requested: bool,
    indent: int = 0,
) -> Grid:
    """Rows in order; bytes that are not a group's are faint and come last.

    Args:
        requested: whether requested bytes are worth a column (they differ from the blocks').
    """
    title = breakdown.by.replace("_", " ").capitalize()
    witness = "Mostly by" if breakdown.by in ("source", "stack") else "Mostly at"
    witnessed = any(row.mostly for row in breakdown.rows)
    columns = [
        Column(title, wide=True),
        Column("Size", right=True),
        Column("Share", right=True),
        Column("", bar=True),
        *([Column("Requested", right=True, spare=True)] if requested else []),
        Column("Blocks", right=True),
        *([Column(witness, wide=True)] if witnessed else []),
    ]
    rows = [
        _cells(row, breakdown.by, stacks, requested=requested, witnessed=witnessed)
        for row in breakdown.rows
    ]
    faint = frozenset(i for i, row in enumerate(breakdown.rows) if row.kind != GROUP)
    return Grid(tuple(columns), tuple(rows), faint, indent)


def _cells(
    row: Row,
    by: str,
    stacks: dict[str, tuple[Frame, ...]],
    *,
    requested: bool,
    witnessed: bool,
) -> tuple[str, ...]:
    name = row.key if row.kind in (GROUP, OTHER) else f"({row.key})"
    if row.kind == GROUP:
        name = key_text(by, row.key, stacks)
    blocks = f"{row.allocations:,}" if row.allocations else ""
    asked = [size(row.requested_bytes) if row.allocations else ""] if requested else []
    return (
        name,
        size(row.total_bytes),
        percent(row.share_permille),
        str(row.share_permille),
        *asked,
        blocks,
        *([row.mostly or ""] if witnessed else []),
    )


def key_text(by: str, key: str, stacks: dict[str, tuple[Frame, ...]]) -> str:
    """The key of a group; of a stack, which is a number, its frames."""
    if by != "stack":
        return key
    return stack_text(stacks.get(key, ())) or f"stack {key}"


def stack_text(frames: tuple[Frame, ...]) -> str:
    """The innermost frames, one a line."""
    told = told_frames(frames)
    lines = [frame.text for frame in told[:_STACK_LINES]]
    more = len(told) - _STACK_LINES
    if more > 0:
        lines[-1] += f" (+{more})"
    return "\n".join(lines)


def categories_text(categories: Breakdown) -> str:
    """Each category with its size, the largest first: "weight 96.0 MiB · other 4.88 KiB (0.4 %)".

    What nothing is known of has its share as well.
    """

    def text(row: Row) -> str:
        if row.kind == GROUP and row.key != "other":
            return f"{row.key} {size(row.total_bytes)}"
        name = row.key if row.kind == GROUP else f"({row.key})"
        return f"{name} {size(row.total_bytes)} ({percent(row.share_permille)})"

    return " · ".join(text(row) for row in categories.rows)


def external_text(external: External) -> str:
    """Memory that torch was handed: "1.20 MiB (1,258,291 bytes), mapped, resident 1.00 MiB"."""
    kinds = ", ".join(external.memory)
    return f"{exact(external.total_bytes)}, {kinds}, {resident_text(external)}"


def resident_text(external: External) -> str:
    """How much of it is in RAM, as far as that is known."""
    if external.unknown_bytes == external.total_bytes:
        return "residency not known"
    text = f"resident {size(external.resident_bytes)}"
    if external.unknown_bytes:
        text += f", of {size(external.unknown_bytes)} not known"
    return text
