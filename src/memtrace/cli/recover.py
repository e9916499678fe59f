"""memtrace recover"""

from __future__ import annotations

from pathlib import Path

import click

from memtrace.errors import MemtraceError, readable


@click.command("recover")
@click.argument("trace_path", metavar="TRACE")
@click.option(
    "--force",
    is_flag=True,
    help="Also what another machine or container recorded: its processes have ended.",
)
def command(trace_path: str, force: bool) -> None:
    """Turn what a killed program left behind into a finished trace."""
    from memtrace.trace import open_trace, spool_keys

    path = Path(trace_path)
    if path.is_file():
        raise MemtraceError(f"{path} is a file; a trace is a directory, NAME.memtrace")
    if not path.is_dir():
        raise MemtraceError(f"{path}: no such trace")
    from memtrace import finalise

    if not spool_keys(path):
        open_trace(path)
        finalise.recover(path)  # what a killed finaliser left beside the tables
        click.echo(f"{readable(trace_path)}: nothing to recover, the trace is finished")
        return
    result = finalise.recover(path, progress=True, force=force)
    left = list(result.refused)
    if result.unsure:
        hosts = ", ".join(dict.fromkeys(host for _, host in result.unsure))
        left.append(
            f"{path} was recorded on host {hosts}; cannot tell from here whether it still runs: "
            f"if it has ended, python -m memtrace recover --force {path}"
        )
    if left and not result.keys and not result.running:
        raise MemtraceError(left[0])
    for reason in left:
        click.echo(f"memtrace: {readable(reason)}", err=True)
    running = f", {len(result.running):,} still running" if result.running else ""
    click.echo(f"{readable(trace_path)}: {len(result.keys):,} recovered{running}")
