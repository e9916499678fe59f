"""memtrace import"""

from __future__ import annotations

from pathlib import Path

import click

from memtrace.errors import readable


@click.command("import")
@click.argument("snapshot", metavar="SNAPSHOT.pickle")
@click.option("-o", "--output", metavar="DIR", help="The trace; by default SNAPSHOT.memtrace here.")
@click.option("--force", is_flag=True, help="Replace DIR if it is a trace.")
def command(snapshot: str, output: str | None, force: bool) -> None:
    """Make a trace of torch's memory snapshot (torch.cuda.memory._dump_snapshot)."""
    from memtrace.torch_snapshot.importing import import_snapshot

    path = import_snapshot(Path(snapshot), output, force=force)
    shown = readable(str(path if output is None else output))
    click.echo(f"{shown}: imported; next: python -m memtrace summary {shown}")
