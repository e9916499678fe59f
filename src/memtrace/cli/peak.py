"""memtrace peak"""

from __future__ import annotations

import sys

import click

from memtrace.analyse.breakdown import GROUPINGS
from memtrace.analyse.counters import MEASURES
from memtrace.cli.options import (
    device_option,
    json_option,
    open_argument,
    process_option,
    trace_argument,
)


@click.command("peak")
@trace_argument
@click.option(
    "--of", type=click.Choice(MEASURES), default="allocated", show_default=True, help="Which bytes."
)
@click.option(
    "--by",
    type=click.Choice(list(GROUPINGS)),
    default="operator",
    show_default=True,
    metavar="COLUMN",
    help="What to group by: operator, module, source, stack, label, category, ...",
)
@click.option(
    "--top", type=click.IntRange(min=1), default=20, show_default=True, help="Groups to name."
)
@device_option
@process_option
@json_option
def command(
    trace_path: str | None,
    of: str,
    by: str,
    top: int,
    device: str | None,
    process: str | None,
    as_json: bool,
) -> None:
    """Who held every byte at the exact peak of a device, and the allocation that reached it."""
    from memtrace.analyse.peak import find_peak
    from memtrace.report.as_json import peak_document, write_json
    from memtrace.report.page import write_page
    from memtrace.report.snapshot import peak_page

    trace = open_argument(trace_path)
    peak = find_peak(trace, device=device, of=of, by=by, top=top, process=process)
    if as_json:
        write_json(peak_document(peak), sys.stdout)
    else:
        write_page(peak_page(peak, top=top), sys.stdout)
