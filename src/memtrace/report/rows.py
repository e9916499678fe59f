"""Any table, as a query gives it: for people, as JSON, as CSV."""

from __future__ import annotations

import csv
import json
import math
from typing import IO, Any

import pyarrow as pa

from memtrace.report.page import Column, Grid, write_page


def write_rows(table: pa.Table, out: IO[str], *, form: str) -> None:
    """`form`: "table", "json" (a list of objects) or "csv"."""
    if form == "json":
        names = _distinct(table.column_names)
        values = zip(*_columns(table), strict=True)
        rows = [dict(zip(names, map(_plain, row), strict=True)) for row in values]
        json.dump(rows, out, indent=2, default=str)
        out.write("\n")
    elif form == "csv":
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(table.column_names)
        writer.writerows(zip(*_columns(table), strict=True))
    else:
        columns = [
            Column(f.name, right=_is_number(f.type), wide=f.type == pa.string())
            for f in table.schema
        ]
        values = zip(*_columns(table), strict=True)
        cells = (tuple(_told(value) for value in row) for row in values)
        write_page([Grid(tuple(columns), tuple(cells))], out)


def _columns(table: pa.Table) -> list[list[Any]]:
    # Not to_pylist() of the table: two columns may have one name.
    return [table.column(place).to_pylist() for place in range(table.num_columns)]


def _distinct(names: list[str]) -> list[str]:
    """Keys for columns: of several that share a name, the later ones have a number: seq_1."""
    found: list[str] = []
    for name in names:
        number, key = 0, name
        while key in found or (number and key in names):
            number += 1
            key = f"{name}_{number}"
        found.append(key)
    return found


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    )


def _plain(value: object) -> object:
    # JSON has neither of these.
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _told(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
