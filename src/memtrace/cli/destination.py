"""-o and --force: where a file that a command writes goes, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import click

from memtrace.cli.options import Command
from memtrace.errors import readable
from memtrace.trace import Trace

STANDARD_OUTPUT = ("-", "/dev/stdout")


def output_options(default: str) -> Callable[[Command], Command]:
    """-o, by default as `default` says, and --force."""
    named = f"Compressed when it ends in .gz; - is standard output; by default {default}."

    def add(command: Command) -> Command:
        force = click.option("--force", is_flag=True, help="Replace FILE if it exists.")
        return click.option("-o", "--output", metavar="FILE", help=named)(force(command))

    return add


class Destination:
    """A file, or standard output.

    Args:
        output: what -o was given; None: the trace's name with `suffix`, here.
    """

    def __init__(self, trace: Trace, suffix: str, output: str | None, *, force: bool) -> None:
        if output is None:
            output = trace.path.resolve().name.removesuffix(".memtrace") + suffix
        self._path = None if output in STANDARD_OUTPUT else Path(output)
        self._force = force
        self._told = "standard output" if self._path is None else readable(output)

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """A stream to write to, while a bar says that it is being written."""
        from memtrace.output_file import output_file, standard_output
        from memtrace.progress import progress

        path = self._path
        place = standard_output() if path is None else output_file(path, force=self._force)
        with progress(f"writing {self._told}"), place as out:
            yield out

    def announce(self, what: str, notes: Sequence[str] | None = None) -> None:
        """Says what has been written, and on standard error what should be known of it."""
        from memtrace.report.units import size

        if self._path is not None:
            written = f"{size(self._path.stat().st_size)}, " if self._path.is_file() else ""
            click.echo(f"{self._told}: {written}{what}")
        for note in notes or ():
            click.echo(readable(note), err=True)
