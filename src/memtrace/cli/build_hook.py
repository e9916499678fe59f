"""memtrace build-hook"""

from __future__ import annotations

import click


@click.command("build-hook")
def command() -> None:
    """Compile the part of memtrace that is tied to a torch version, for the torch at hand."""
    from memtrace.hook import build

    click.echo(build.build_hook())
