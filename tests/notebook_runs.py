"""Notebooks executed by a real kernel, and what their cells show."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from program_runs import plain_environment

_TIMEOUT_S = 120


@dataclass(frozen=True)
class Cell:
    """What one cell has shown, in its order: messages as nbformat has them."""

    outputs: Sequence[Any]

    def of_kind(self, kind: str) -> list[Any]:
        return [output for output in self.outputs if output.output_type == kind]

    @property
    def kinds(self) -> list[str]:
        return [output.output_type for output in self.outputs]

    @property
    def value(self) -> Any:
        """The data of Out[n]; None where there is none."""
        return next((output.data for output in self.of_kind("execute_result")), None)

    @property
    def shown(self) -> list[Any]:
        """The data of what was displayed."""
        return [output.data for output in self.of_kind("display_data")]

    def text(self, stream: str) -> str:
        return "".join(o.text for o in self.of_kind("stream") if o.name == stream)


def run_notebook(
    folder: Path,
    *sources: str,
    through: Sequence[str] = (),
    environment: dict[str, str] | None = None,
) -> list[Cell]:
    """Runs cells in a kernel whose working folder this is; `through`: words before its module."""
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in sources]
    return execute(notebook, folder, through=through, environment=environment)


def execute(
    notebook: Any,
    folder: Path,
    *,
    through: Sequence[str] = (),
    environment: dict[str, str] | None = None,
) -> list[Cell]:
    """The same of a notebook that there is."""
    client = NotebookClient(
        notebook, timeout=_TIMEOUT_S, allow_errors=True, kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    )  # fmt: skip
    client.km = client.create_kernel_manager()
    python = [sys.executable, *through]
    client.km.kernel_spec.argv = [*python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    client.execute(env=environment or plain_environment())
    return [Cell(cell.outputs) for cell in notebook.cells]


@dataclass
class Table(HTMLParser):
    """The tables of a piece of HTML, cell by cell, its lines, and its tags."""

    tables: list[list[list[str]]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    tags: set[str] = field(default_factory=set)
    attributes: dict[str, str | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= dict(attrs)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "div" and not (self.tables and self._open):
            self.lines.append("")
        self._open = tag in ("td", "th") or (tag == "div" and self._open)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "table"):
            self._open = False

    def handle_data(self, data: str) -> None:
        if self._open:
            self.tables[-1][-1][-1] += data
        elif self.lines and data.strip():
            self.lines[-1] += data

    _open = False


def read_html(html: str) -> Table:
    """What a piece of HTML holds."""
    table = Table()
    table.feed(html)
    return table
