"""What memtrace's commands print, as data of a page: the same lines, tables and words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memtrace.report.page import FAINT, GOOD, TITLE, WARNING, Block, Grid, Line

_STYLES = {TITLE: "title", FAINT: "faint", WARNING: "warning", GOOD: "good"}


def told(blocks: Sequence[Block]) -> list[dict[str, Any]]:
    """Lines as {text, style}; tables as {columns: [{title, right}], rows, faint}."""
    return [_grid(block) if isinstance(block, Grid) else _line(block) for block in blocks]


def _line(line: Line) -> dict[str, Any]:
    return {"text": line.text, "style": style_word(line.style)}


def style_word(style: str) -> str:
    """A line's style as the page's classes call it."""
    return _STYLES.get(style, "")


def _grid(grid: Grid) -> dict[str, Any]:
    shown = [place for place, column in enumerate(grid.columns) if not column.bar]
    return {
        "columns": [
            {"title": grid.columns[place].title, "right": grid.columns[place].right}
            for place in shown
        ],
        "rows": [[row[place] for place in shown] for row in grid.rows],
        "faint": sorted(grid.faint),
    }
