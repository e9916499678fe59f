"""memtrace report"""

from __future__ import annotations

from pathlib import Path

import click

from memtrace.cli.options import device_option, open_argument, trace_argument, window
from memtrace.errors import readable
from memtrace.outputs import Selection, find_output


@click.command("report")
@trace_argument
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="Compressed when it ends in .gz; by default the trace's name with .html.",
)
@click.option("--window", "window_text", metavar="A,B", help="Only from time A to B: 1.5s,2s.")
@click.option(
    "--large-bytes",
    type=click.IntRange(min=0),
    metavar="N",
    help="Tell every allocation of at least N bytes one by one; by default as there is room.",
)
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@device_option
def command(
    trace_path: str | None,
    output: str | None,
    window_text: str | None,
    large_bytes: int | None,
    force: bool,
    device: str | None,
) -> None:
    """Write one page of HTML: timeline, live sets, lifetimes, segments, stages.

    It holds all that it shows and fetches nothing: open it in a browser, send it to a colleague.
    """
    from memtrace.analyse.target import check_device
    from memtrace.output_file import output_file
    from memtrace.page.report import write_report
    from memtrace.progress import progress
    from memtrace.report.units import size

    selection = Selection(device, None if window_text is None else window(window_text), large_bytes)
    trace = open_argument(trace_path)
    if device is not None:
        check_device(trace, device)
    spec = find_output("report")
    name = trace.path.resolve().name.removesuffix(".memtrace")
    path = Path(output) if output is not None else Path(name + spec.suffix)
    with output_file(path, force=force) as out, progress(f"writing {path.name}"):
        write_report(trace, selection, out)
    click.echo(f"{readable(str(path))}: {size(path.stat().st_size)}, {spec.summary}")
