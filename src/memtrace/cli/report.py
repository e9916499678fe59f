"""memtrace report"""

from __future__ import annotations

import click

from memtrace.cli.destination import Destination, output_options
from memtrace.cli.options import (
    device_option,
    open_argument,
    process_option,
    trace_argument,
    window,
)
from memtrace.outputs import Selection, find_output


@click.command("report")
@trace_argument
@click.option("--window", "window_text", metavar="A,B", help="Only from time A to B: 1.5s,2s.")
@click.option(
    "--large-bytes",
    type=click.IntRange(min=0),
    metavar="N",
    help="Tell every allocation of at least N bytes one by one; by default as there is room.",
)
@output_options("the trace's name with .html")
@device_option
@process_option("A pid or key; by default every process.")
def command(
    trace_path: str | None,
    window_text: str | None,
    large_bytes: int | None,
    output: str | None,
    force: bool,
    device: str | None,
    process: str | None,
) -> None:
    """Write one page of HTML: timeline, live sets, lifetimes, segments, stages.

    It holds all that it shows and fetches nothing: open it in a browser, send it to a colleague.
    """
    from memtrace.analyse.target import check_device
    from memtrace.page.report import write_report

    selected = None if window_text is None else window(window_text)
    trace = open_argument(trace_path)
    if device is not None:
        check_device(trace, device)
    spec = find_output("report")
    destination = Destination(trace, spec.suffix, output, force=force)
    with destination.open() as out:
        write_report(trace, Selection(device, selected, large_bytes, process), out)
    destination.announce(spec.summary)
