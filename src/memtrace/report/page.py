"""What a report prints: lines and tables, styled in a terminal, plain and unbroken in a pipe."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from textwrap import wrap
from typing import IO, TYPE_CHECKING, Any

from memtrace.errors import without_controls

if TYPE_CHECKING:
    from rich.table import Table as RichTable

_GAP = "  "
_BAR_CELLS = 12
#: Between two columns in a terminal: a space of either, and one for the line.
_RICH_GAP = 3
_NARROWEST = 8
_CONTINUED = "    "
#: Narrower than this, a terminal gets no spare columns.
_ROOMY_COLUMNS = 96
_ASCII_SIGNS = str.maketrans(
    {"·": "|", "…": "...", "→": "->", "│": "|", "├": "|", "└": "`", "─": "-"}
)
#: What the branches of a tree are drawn with, at the beginning of a cell.
BRANCHES = "│├└─ "
_EIGHTHS = " ▏▎▍▌▋▊▉█"


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        wide: its cells may be cut where a terminal has no room for them.
        spare: left out of a narrow terminal.
        bar: its cells are shares in permille, drawn as bars in a roomy terminal and nowhere else.
    """

    title: str
    right: bool = False
    wide: bool = False
    spare: bool = False
    bar: bool = False


@dataclass(frozen=True)
class Line:
    """One line: a title, an ordinary line, a faint one, or a warning."""

    text: str
    style: str = ""


@dataclass(frozen=True)
class Grid:
    """A table.

    Attributes:
        faint: the numbers of rows that stand back.
        styles: of cells, by the numbers of row and column; not of branches before the text.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    faint: frozenset[int] = frozenset()
    indent: int = 0
    styles: Mapping[tuple[int, int], str] = field(default_factory=dict)


Block = Line | Grid

TITLE, FAINT, WARNING, GOOD, BAD = "bold", "dim", "yellow", "green", "red"


def write_page(blocks: Sequence[Block], stream: IO[str]) -> None:
    """Prints the blocks as the stream can show them; names in them cannot steer a terminal."""
    blocks = [_without_controls(block) for block in blocks]
    if not speaks_unicode(stream):
        blocks = [_in_ascii(block) for block in blocks]
    if stream.isatty():
        _write_rich(blocks, stream)
    else:
        for block in blocks:
            for line in _plain(block):
                stream.write(line + "\n")


def text_of(blocks: Sequence[Block]) -> str:
    """The blocks as plain text, as in a pipe."""
    return "\n".join(line for block in blocks for line in _plain(_without_controls(block)))


def write_json(document: dict[str, Any], stream: IO[str]) -> None:
    """One indented document and a newline, in letters that the stream has."""
    json.dump(document, stream, indent=2, ensure_ascii=not speaks_unicode(stream))
    stream.write("\n")


def speaks_unicode(stream: IO[str]) -> bool:
    """False for a stream of an encoding that lacks letters, such as ASCII in the C locale."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return encoding.lower().replace("-", "").startswith("utf")


def _without_controls(block: Block) -> Block:
    if isinstance(block, Line):
        return replace(block, text=without_controls(block.text))
    rows = tuple(tuple(without_controls(cell) for cell in row) for row in block.rows)
    return replace(block, rows=rows)


def _in_ascii(block: Block) -> Block:
    """With other signs for those of our own; a bar has none."""
    if isinstance(block, Line):
        return replace(block, text=block.text.translate(_ASCII_SIGNS))
    shown = [i for i, column in enumerate(block.columns) if not column.bar]
    rows = tuple(tuple(row[i].translate(_ASCII_SIGNS) for i in shown) for row in block.rows)
    return replace(block, columns=tuple(block.columns[i] for i in shown), rows=rows)


def _plain(block: Block) -> list[str]:
    if isinstance(block, Line):
        return [block.text]
    shown = [i for i, column in enumerate(block.columns) if not column.bar]
    columns = [block.columns[i] for i in shown]
    lines = [[column.title for column in columns]]
    lines += [[" < ".join(row[i].split("\n")) for i in shown] for row in block.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    return [
        " " * block.indent
        + _GAP.join(
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        ).rstrip()
        for line in lines
    ]


def _write_rich(blocks: Sequence[Block], stream: IO[str]) -> None:
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    console = Console(file=stream, highlight=False)
    for block in blocks:
        if isinstance(block, Grid):
            table = _rich_table(block, console.width - block.indent)
            console.print(Padding(table, (0, 0, 0, block.indent), expand=False))
        else:
            for line in _wrapped(block.text, console.width):
                console.print(Text(line, style=block.style), soft_wrap=True)


def _wrapped(text: str, width: int) -> list[str]:
    """A line that is too long goes on below itself, further in; a word is never cut."""
    indent = " " * (len(text) - len(text.lstrip()))
    return wrap(
        text.lstrip(),
        width,
        initial_indent=indent,
        subsequent_indent=indent + _CONTINUED,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [""]


def _rich_table(grid: Grid, width: int) -> RichTable:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1), header_style="bold"
    )
    roomy = width >= _ROOMY_COLUMNS
    shown = [i for i, c in enumerate(grid.columns) if roomy or not (c.bar or c.spare)]
    widths = _fit(
        [max(map(len, _cells(grid, i))) for i in shown],
        [grid.columns[i].wide for i in shown],
        width,
    )
    for i, cells in zip(shown, widths, strict=True):
        column = grid.columns[i]
        table.add_column(
            Text(column.title),
            justify="right" if column.right else "left",
            no_wrap=True,
            overflow="ellipsis",
            style="cyan" if column.bar else "",
            width=cells,
        )
    for number, row in enumerate(grid.rows):
        texts = []
        for i in shown:
            text = Text(_bar(int(row[i])) if grid.columns[i].bar else row[i])
            lead = len(row[i]) - len(row[i].lstrip(BRANCHES))
            text.stylize("dim", 0, lead)
            text.stylize(grid.styles.get((number, i), ""), lead)
            texts.append(text)
        table.add_row(*texts, style="dim" if number in grid.faint else None)
    return table


def _fit(widths: list[int], wide: list[bool], width: int) -> list[int]:
    """Column widths that fit; the widest of the wide ones give way first, numbers never do."""
    room = width - _RICH_GAP * (len(widths) - 1)
    room -= sum(cells for cells, gives in zip(widths, wide, strict=True) if not gives)
    flexible = [cells for cells, gives in zip(widths, wide, strict=True) if gives]
    limit = max(flexible, default=0)
    while limit > _NARROWEST and sum(min(cells, limit) for cells in flexible) > room:
        limit -= 1
    return [
        min(cells, limit) if gives else cells for cells, gives in zip(widths, wide, strict=True)
    ]


def _cells(grid: Grid, column: int) -> list[str]:
    if grid.columns[column].bar:
        return ["x" * _BAR_CELLS]
    cells = [grid.columns[column].title, *(row[column] for row in grid.rows)]
    return [line for cell in cells for line in cell.split("\n")]


def _bar(permille: int) -> str:
    eighths = round(permille * _BAR_CELLS * 8 / 1000)
    full, part = divmod(eighths, 8)
    return "█" * full + (_EIGHTHS[part] if part else "")
