"""memtrace run: documents the command and hands it on (`memtrace.run` is where it lives)."""

from __future__ import annotations

import click


@click.command(
    "run",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(arguments: tuple[str, ...]) -> int:
    """Run SCRIPT, -m MODULE or -c CODE and record its memory."""
    from memtrace import run

    status: int = run.main(list(arguments))
    return status
