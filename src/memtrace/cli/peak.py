"""memtrace peak"""

from __future__ import annotations

import sys

import click

from memtrace.cli.options import grouping_options, of_option, open_argument, trace_argument


@click.command("peak")
@trace_argument
@of_option
@grouping_options(by="operator")
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
