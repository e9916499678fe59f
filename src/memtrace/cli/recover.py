"""memtrace recover"""

from __future__ import annotations

from pathlib import Path

import click

from memtrace.errors import MemtraceError, readable


@click.command("recover")
@click.argument("trace_path", metavar="TRACE")
def command(trace_path: str) -> None:
    """Turn what a killed program left behind into a finished trace."""
    from memtrace.trace import open_trace, spool_keys

    path = Path(trace_path)
    if path.is_file():
        raise MemtraceError(f"{path} is a file; a trace is a directory, NAME.memtrace")
    if not path.is_dir():
        raise MemtraceError(f"{path}: no such trace")
    if not spool_keys(path):
        open_trace(path)
        click.echo(f"{readable(trace_path)}: nothing to recover, the trace is finished")
        return
    from memtrace import finalise

    result = finalise.recover(path)
    if result.refused and not result.keys and not result.running:
        raise MemtraceError(result.refused[0])
    for reason in result.refused:
        click.echo(f"memtrace: {readable(reason)}", err=True)
    left = f", {len(result.running):,} still running" if result.running else ""
    click.echo(f"{readable(trace_path)}: {len(result.keys):,} recovered{left}")
