"""memtrace oom"""

from __future__ import annotations

import sys

import click

from memtrace.cli.options import grouping_options, open_argument, trace_argument


@click.command("oom")
@trace_argument
@click.option(
    "--number",
    type=click.IntRange(min=1),
    metavar="N",
    help="Which failed allocation, from 1; by default the last.",
)
@grouping_options(by="source")
def command(
    trace_path: str | None,
    number: int | None,
    by: str,
    top: int,
    device: str | None,
    process: str | None,
    as_json: bool,
) -> None:
    """Why an allocation failed: who asked, who held what, and what would have made it fit."""
    from memtrace.analyse.failures import list_ooms
    from memtrace.analyse.oom import post_mortem
    from memtrace.report.as_json import oom_document, write_json
    from memtrace.report.oom import no_oom_page, oom_page
    from memtrace.report.page import write_page

    trace = open_argument(trace_path)
    found = post_mortem(trace, number=number, device=device, process=process, by=by, top=top)
    listed = list_ooms(trace, device=device, process=process)
    if as_json:
        write_json(oom_document(found, listed), sys.stdout)
    elif found is None:
        write_page(no_oom_page(), sys.stdout)
    else:
        write_page(oom_page(found, listed), sys.stdout)
