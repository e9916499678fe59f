"""SQL on a trace, by DuckDB: each dataset is a view of its Parquet files."""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa

from memtrace.errors import MemtraceError
from memtrace.schema import SCHEMAS
from memtrace.trace import Trace

_TYPES: dict[pa.DataType, str] = {
    pa.int64(): "BIGINT", pa.int32(): "INTEGER", pa.uint64(): "UBIGINT", pa.string(): "VARCHAR",
    pa.bool_(): "BOOLEAN", pa.list_(pa.int64()): "BIGINT[]",
}  # fmt: skip
# Of a part's path: DATASET/process=KEY/FILE.
_PROCESS = r"'/process=([^/]*)/[^/]*$'"


def connect(trace: Trace) -> Any:
    """A DuckDB connection in memory, with a view for each dataset of the trace.

    The views have the columns of docs/format.md and `process`, which rows of one process share.

    Raises:
        MemtraceError: DuckDB is not installed.
    """
    try:
        import duckdb
    except ImportError as error:
        raise MemtraceError("SQL needs DuckDB: pip install 'memtrace[sql]'") from error
    # Nothing is fetched from anywhere for a query.
    config: dict[str, Any] = {
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
    }
    connection = duckdb.connect(":memory:", config=config)
    for name in SCHEMAS:
        connection.execute(_view(trace, name))
    return connection


def query(trace: Trace, text: str) -> pa.Table:
    """The rows of a SELECT over the views; of several statements, those of the last.

    Raises:
        MemtraceError: DuckDB is not installed, or refuses the query: its own words, one line.
    """
    connection = connect(trace)
    import duckdb

    try:
        found = connection.sql(text)
    except duckdb.Error as error:
        raise MemtraceError(f"SQL: {_one_line(str(error))}") from error
    if found is None:
        raise MemtraceError("SQL: that gives no rows: write select ...")
    try:
        table: pa.Table = found.to_arrow_table()
    except duckdb.Error as error:
        raise MemtraceError(f"SQL: {_one_line(str(error))}") from error
    return _without_decimals(table)


def _without_decimals(table: pa.Table) -> pa.Table:
    """DuckDB's sums of integers are 128 bits wide, and 0.5 is a decimal: nobody here needs either.

    An integer that does not fit 64 bits becomes a float.
    """
    for place, field in enumerate(table.schema):
        if not pa.types.is_decimal(field.type):
            continue
        column = table.column(place)
        try:
            narrow = column.cast(pa.int64() if field.type.scale == 0 else pa.float64())
        except pa.ArrowInvalid:
            narrow = column.cast(pa.float64())
        table = table.set_column(place, field.name, narrow)
    return table


def _view(trace: Trace, name: str) -> str:
    parts = [part for found in trace.datasets[name].parts.values() for part in found]
    schema = SCHEMAS[name]
    there = set().union(*(part.columns for part in parts)) if parts else set()
    # An older trace lacks columns.
    columns = [
        _quoted(field.name)
        if field.name in there
        else f"CAST(NULL AS {_TYPES[field.type]}) AS {_quoted(field.name)}"
        for field in schema
    ]
    if not parts:
        source, where = "(SELECT 1)", " WHERE false"
        columns.append("CAST(NULL AS VARCHAR) AS process")
    else:
        files = ", ".join(_literal(_one_file(str(part.path))) for part in parts)
        # For DuckDB every folder above the trace that is called NAME=VALUE would be a column.
        source = (
            f"read_parquet([{files}], union_by_name = true, hive_partitioning = false, "
            "filename = true)"
        )
        where = ""
        columns.append(f"regexp_extract(filename, {_PROCESS}, 1) AS process")
    return f"CREATE VIEW {_quoted(name)} AS SELECT {', '.join(columns)} FROM {source}{where}"


def _one_file(path: str) -> str:
    """The pattern that fits this path alone: DuckDB takes a path for one."""
    return re.sub(r"[*?\[]", r"[\g<0>]", path)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _one_line(text: str) -> str:
    """DuckDB's message without the drawing of where it stopped."""
    lines = [line for line in text.splitlines() if line.strip(" ^")]
    return " ".join(line for line in lines if not line.startswith("LINE "))
