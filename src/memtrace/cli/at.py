"""memtrace at"""

from __future__ import annotations

import sys

import click

from memtrace.cli.options import (
    TimeType,
    grouping_options,
    of_option,
    open_argument,
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
@of_option
@grouping_options(by="operator")
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
