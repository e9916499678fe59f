"""memtrace export"""

from __future__ import annotations

from pathlib import Path

import click

from memtrace.cli.options import device_option, open_argument, trace_argument, window
from memtrace.errors import MemtraceError, readable
from memtrace.outputs import OUTPUTS, Selection, find_output


@click.command(
    "export",
    epilog="Formats: " + "; ".join(f"{spec.name}: {spec.summary}" for spec in OUTPUTS) + ".",
)
@trace_argument
@click.option(
    "--to",
    "format_name",
    type=click.Choice([spec.name for spec in OUTPUTS]),
    required=True,
    help="The format.",
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="Compressed when it ends in .gz; - is standard output; by default the trace's name with "
    "the format's suffix.",
)
@click.option(
    "--window", "window_text", metavar="A,B", help="Only from time A to time B, such as 1.5s,2s."
)
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@device_option
def command(
    trace_path: str | None,
    format_name: str,
    output: str | None,
    window_text: str | None,
    force: bool,
    device: str | None,
) -> None:
    """Write the trace in another tool's format."""
    from memtrace.analyse.target import check_device, why_empty
    from memtrace.output_file import output_file, standard_output
    from memtrace.progress import progress
    from memtrace.report.units import size

    selected = None if window_text is None else window(window_text)
    trace = open_argument(trace_path)
    if not trace.devices:
        raise MemtraceError(why_empty(trace))
    check_device(trace, device)
    spec = find_output(format_name)
    name = trace.path.resolve().name.removesuffix(".memtrace")
    path = Path(output) if output is not None else Path(name + spec.suffix)
    to_stdout = output == "-"
    told = "standard output" if to_stdout else readable(str(path))
    place = standard_output() if to_stdout else output_file(path, force=force)
    with progress(f"writing {told}"), place as out:
        notes = spec.load()(trace, Selection(device, selected), out)
    if not to_stdout:
        click.echo(f"{told}: {size(path.stat().st_size)}, {spec.summary}")
    for note in notes or ():
        click.echo(readable(note), err=True)
