"""memtrace flamegraph"""

from __future__ import annotations

from typing import Any

import click

from memtrace.cli.destination import Destination, output_options
from memtrace.cli.options import device_option, open_argument, process_option, trace_argument
from memtrace.cli.tree import tree_options, wanted_tree


@click.command("flamegraph")
@trace_argument
@output_options("the trace's name with .flamegraph.html")
@click.option(
    "--inverted", is_flag=True, help="Begin with what the paths end in. The page has a button."
)
@tree_options
@device_option
@process_option()
def command(
    trace_path: str | None, output: str | None, force: bool, inverted: bool, **how: Any
) -> None:
    """Write who holds the bytes at a device's peak as a page: a flame graph to search and zoom.

    With --allocated what was allocated in total; with --temporary what was soon freed again.
    """
    from memtrace.outputs import find_output
    from memtrace.page.flamegraph import write_tree_page
    from memtrace.report.units import size

    trace = open_argument(trace_path)
    spec = find_output("flamegraph")
    destination = Destination(trace, spec.suffix, output, force=force)
    with destination.open() as out:
        tree = wanted_tree(trace, **how)
        write_tree_page(tree, out, inverted=inverted)
    least = "at least " if tree.at_least else ""
    told = f"{least}{size(tree.total_bytes)} in {tree.root.blocks:,} blocks"
    destination.announce(f"{told}; open it in a browser")
