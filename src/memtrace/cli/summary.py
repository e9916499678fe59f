"""memtrace summary"""

from __future__ import annotations

import sys

import click

from memtrace.cli.options import device_option, json_option, open_argument, trace_argument


@click.command("summary")
@trace_argument
@device_option
@json_option
def command(trace_path: str | None, device: str | None, as_json: bool) -> None:
    """What ran, how long, its peaks on each device, and whether anything was lost."""
    from memtrace.analyse.summary import summarise
    from memtrace.report.as_json import summary_document, write_json
    from memtrace.report.page import write_page
    from memtrace.report.summary import summary_page

    summary = summarise(open_argument(trace_path), device=device)
    if as_json:
        write_json(summary_document(summary), sys.stdout)
    else:
        write_page(summary_page(summary), sys.stdout)
