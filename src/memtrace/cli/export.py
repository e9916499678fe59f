"""memtrace export"""

from __future__ import annotations

import click

from memtrace.cli.destination import Destination, output_options
from memtrace.cli.options import device_option, open_argument, trace_argument, window
from memtrace.errors import MemtraceError
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
    "--window", "window_text", metavar="A,B", help="Only from time A to time B, such as 1.5s,2s."
)
@output_options("the trace's name with the format's suffix")
@device_option
def command(
    trace_path: str | None,
    format_name: str,
    window_text: str | None,
    output: str | None,
    force: bool,
    device: str | None,
) -> None:
    """Write the trace in another tool's format."""
    from memtrace.analyse.counters import any_event
    from memtrace.analyse.target import check_device, why_empty
    from memtrace.report.losses import missing_notes

    selected = None if window_text is None else window(window_text)
    trace = open_argument(trace_path)
    if not trace.devices:
        raise MemtraceError(why_empty(trace))
    check_device(trace, device)
    if selected is not None and not any_event(trace, selected, device):
        raise MemtraceError(f"no event lies in --window {window_text}")
    spec = find_output(format_name)
    destination = Destination(trace, spec.suffix, output, force=force)
    with destination.open() as out:
        notes = spec.load()(trace, Selection(device, selected), out)
    destination.announce(spec.summary, [*missing_notes(trace), *(notes or ())])
