"""memtrace at"""

from __future__ import annotations

import sys

import click

from memtrace.analyse.breakdown import GROUPINGS
from memtrace.analyse.counters import MEASURES
from memtrace.cli.options import (
    TimeType,
    device_option,
    json_option,
    open_argument,
    process_option,
    trace_argument,
)


@click.command("at")
@trace_argument
@click.option(
    "--time",
    "time_ns",
    type=TimeType(),
    required=True,
    metavar="T",
    help="Since the recording began: 1.5s, 1500ms, 123456ns, or seconds.",
)
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
    time_ns: int,
    of: str,
    by: str,
    top: int,
    device: str | None,
    process: str | None,
    as_json: bool,
) -> None:
    """Who held every byte of a device at a time."""
    from memtrace.analyse.snapshot import take_snapshot
    from memtrace.report.as_json import snapshot_document, write_json
    from memtrace.report.page import write_page
    from memtrace.report.snapshot import snapshot_page

    trace = open_argument(trace_path)
    snapshot = take_snapshot(trace, time_ns, device=device, of=of, by=by, top=top, process=process)
    if as_json:
        write_json(snapshot_document(snapshot, time_ns), sys.stdout)
    else:
        write_page(snapshot_page(snapshot, time_ns, top=top), sys.stdout)
