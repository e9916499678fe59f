"""memtrace leaks"""

from __future__ import annotations

import sys

import click

from memtrace.cli.options import grouping_options, open_argument, trace_argument


@click.command("leaks")
@trace_argument
@click.option(
    "--stage",
    metavar="NAME",
    help="A step is a stage of this name, instead of a call of a model.",
)
@grouping_options(by="source")
def command(
    trace_path: str | None,
    by: str,
    stage: str | None,
    top: int,
    device: str | None,
    process: str | None,
    as_json: bool,
) -> None:
    """What each step leaves behind: warm-up, caches and true growth told apart."""
    from memtrace.analyse.leaks import find_leaks
    from memtrace.report.as_json import leaks_document, write_json
    from memtrace.report.leaks import leaks_page
    from memtrace.report.page import write_page

    leaks = find_leaks(
        open_argument(trace_path), device=device, process=process, by=by, stage=stage
    )
    if as_json:
        write_json(leaks_document(leaks), sys.stdout)
    else:
        write_page(leaks_page(leaks, top=top), sys.stdout)
