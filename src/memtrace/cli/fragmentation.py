"""memtrace fragmentation"""

from __future__ import annotations

import sys

import click

from memtrace.cli.options import TimeType, grouping_options, open_argument, trace_argument


@click.command("fragmentation")
@trace_argument
@click.option(
    "--at",
    "time_ns",
    type=TimeType(),
    metavar="T",
    help="A time, instead of the peak of reserved memory: 1.5s, 1500ms, or seconds.",
)
@click.option(
    "--oom",
    "number",
    type=click.IntRange(min=1),
    metavar="N",
    help="The Nth failed allocation, as `memtrace oom` numbers them.",
)
@grouping_options(by="source")
def command(
    trace_path: str | None,
    time_ns: int | None,
    number: int | None,
    by: str,
    top: int,
    device: str | None,
    process: str | None,
    as_json: bool,
) -> None:
    """Which live blocks keep reserved memory that nobody uses: at its peak, a time or an OOM."""
    from memtrace.analyse.fragmentation import find_fragmentation
    from memtrace.analyse.oom import fragmentation_at_oom
    from memtrace.report.as_json import fragmentation_document, write_json
    from memtrace.report.fragmentation import fragmentation_page
    from memtrace.report.page import write_page

    if number is not None and time_ns is not None:
        raise click.UsageError("--at and --oom name two moments: give one of them")
    trace = open_argument(trace_path)
    if number is not None:
        found = fragmentation_at_oom(trace, number, device=device, process=process, by=by)
    else:
        found = find_fragmentation(trace, device=device, process=process, by=by, time_ns=time_ns)
    if as_json:
        write_json(fragmentation_document(found), sys.stdout)
    else:
        write_page(fragmentation_page(found, top=top), sys.stdout)
