"""memtrace flamegraph"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from memtrace.cli.options import device_option, open_argument, process_option, trace_argument
from memtrace.cli.tree import tree_options, wanted_tree


@click.command("flamegraph")
@trace_argument
@click.option(
    "-o", "--output", metavar="FILE", help="By default the trace's name with .flamegraph.html."
)
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@click.option(
    "--inverted", is_flag=True, help="Begin with what the paths end in. The page has a button."
)
@tree_options
@device_option
@process_option
def command(
    trace_path: str | None, output: str | None, force: bool, inverted: bool, **how: Any
) -> None:
    """Write who holds the bytes at a device's peak as a page: a flame graph to search and zoom.

    With --allocated what was allocated in total; with --temporary what was soon freed again.
    """
    from memtrace.errors import readable
    from memtrace.output_file import output_file
    from memtrace.outputs import find_output
    from memtrace.page.flamegraph import write_tree_page
    from memtrace.progress import progress
    from memtrace.report.units import size

    trace = open_argument(trace_path)
    spec = find_output("flamegraph")
    name = trace.path.resolve().name.removesuffix(".memtrace")
    path = Path(output) if output is not None else Path(name + spec.suffix)
    with progress("making the flame graph"):
        tree = wanted_tree(trace, **how)
        with output_file(path, force=force) as out:
            write_tree_page(tree, out, inverted=inverted)
    told = f"{size(tree.total_bytes)} in {tree.root.blocks:,} blocks"
    click.echo(f"{readable(str(path))}: {size(path.stat().st_size)}, {told}; open it in a browser")
