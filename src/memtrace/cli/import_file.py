"""memtrace import"""

from __future__ import annotations

from pathlib import Path

import click

from memtrace.errors import readable
from memtrace.imports.formats import FORMATS, NAMES


@click.command("import")
@click.argument("file", metavar="FILE")
@click.option("-o", "--output", metavar="DIR", help="The trace; by default FILE.memtrace here.")
@click.option("--force", is_flag=True, help="Replace DIR if it is a trace.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(NAMES),
    help="; ".join(f"{kind.name}: {kind.what}" for kind in FORMATS)
    + ". By default what the file's content is.",
)
def command(file: str, output: str | None, force: bool, kind: str | None) -> None:
    """Make a trace of another tool's file.

    FILE is torch's memory snapshot (torch.cuda.memory._dump_snapshot), a Chrome trace of
    torch.profiler with profile_memory=True or of memtrace export, or memory_profiler's .dat,
    each in gzip or not. What the file does not know is told after it.
    """
    from memtrace.imports.importing import import_file

    made = import_file(Path(file), output, force=force, kind=kind)
    shown = readable(str(made.path if output is None else output))
    click.echo(f"{shown}: imported; next: python -m memtrace summary {shown}")
    for line in made.lacks:
        click.echo(readable(line), err=True)
