"""memtrace sql"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from memtrace.cli.options import open_argument


# A query may begin with a comment, "-- ...", which is no option.
@click.command("sql", context_settings={"ignore_unknown_options": True})
@click.argument("words", metavar="[TRACE] QUERY", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--json", "form", flag_value="json", help="Print JSON, an object each row.")
@click.option("--csv", "form", flag_value="csv", help="Print CSV.")
def command(words: tuple[str, ...], form: str | None) -> None:
    """Ask a trace in SQL (DuckDB): every dataset is a view, with the columns of docs/format.md.

    memtrace sql serve.memtrace "select category, sum(size_bytes) from allocations group by 1"
    """
    from memtrace.errors import MemtraceError
    from memtrace.report.rows import write_rows
    from memtrace.sql import query

    for word in words:
        if word.startswith("-") and len(word.split()) == 1:
            raise click.NoSuchOption(word)
    if len(words) > 2:
        raise MemtraceError("one trace and one query: put the query between quotes")
    if len(words) == 1 and Path(words[0]).is_dir():
        raise MemtraceError(f'which query? memtrace sql {words[0]} "select ..."')
    trace = open_argument(words[0] if len(words) == 2 else None)
    write_rows(query(trace, words[-1]), sys.stdout, form=form or "table")
