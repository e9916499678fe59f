"""memtrace stages"""

from __future__ import annotations

import sys

import click

from memtrace.cli.options import (
    device_option,
    json_option,
    open_argument,
    process_option,
    trace_argument,
)


@click.command("stages")
@trace_argument
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Stages to show of each device; one stands for all of its name.",
)
@device_option
@process_option()
@json_option
def command(
    trace_path: str | None, top: int, device: str | None, process: str | None, as_json: bool
) -> None:
    """What each stage held of each device, at its peak and at its end, down to the system's count.

    Every line is a part of the total below it; what two counts differ by has a name.
    """
    from memtrace.analyse.ledger import make_ledger
    from memtrace.report.as_json import ledger_document, write_json
    from memtrace.report.page import write_page
    from memtrace.report.stages import ledger_page

    trace = open_argument(trace_path)
    ledger = make_ledger(trace, device=device, process=process, top=top)
    if as_json:
        write_json(ledger_document(ledger), sys.stdout)
    else:
        write_page(ledger_page(ledger, str(trace.path)), sys.stdout)
