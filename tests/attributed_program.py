"""A made-up program whose trace is attributed: for tests of the rules, one row at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from memtrace.attribute.in_place import attribute_again
from memtrace.trace import open_trace
from trace_builder import ProcessBuilder, TraceBuilder


class Program:
    """A made-up program, and its rows as attribution writes them."""

    def __init__(self, path: Path) -> None:
        self._builder = TraceBuilder(path)
        self.path = path
        self.process: ProcessBuilder = self._builder.process()

    def write(self, **more: Any) -> Path:
        return self._builder.write(**more)

    def attributed(self, **more: Any) -> dict[int, dict[str, Any]]:
        """Rows of `allocations` by id."""
        self.write(**more)
        attribute_again(self.path, self.process.key)
        return {row["allocation_id"]: row for row in self.rows("allocations")}

    def rows(self, dataset: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = open_trace(self.path).datasets[dataset].read().to_pylist()
        return rows
