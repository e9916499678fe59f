"""memtrace fit"""

from __future__ import annotations

import sys
from typing import Any

import click

from memtrace.cli.options import (
    device_option,
    json_option,
    open_argument,
    process_option,
    trace_argument,
)
from memtrace.cli.what_if_options import asked, what_if_options


@click.command("fit")
@trace_argument
@click.option("--gpu", "names", metavar="NAMES", help="With commas, such as t4,a100-80; else all.")
@click.option("--gpus", "gpus_path", metavar="FILE.csv", help="Rows to add to the catalogue.")
@click.option(
    "--price",
    "prices",
    metavar="NAME=P",
    multiple=True,
    help="An hour of a GPU in dollars: h100=2.5.",
)
@what_if_options
@device_option
@process_option()
@json_option
def command(
    trace_path: str | None,
    names: str | None,
    gpus_path: str | None,
    prices: tuple[str, ...],
    device: str | None,
    process: str | None,
    as_json: bool,
    **what_ifs: Any,
) -> None:
    """Where the recorded program fits, or a changed one: which GPUs, with what headroom and price."""
    from memtrace.fit.catalogue import choose, read_catalogue
    from memtrace.fit.judge import judge
    from memtrace.report.as_json import write_json
    from memtrace.report.fit import fit_page
    from memtrace.report.fit_json import fit_document
    from memtrace.report.page import write_page

    catalogue = read_catalogue(gpus_path, prices)
    gpus = list(catalogue.values()) if names is None else choose(catalogue, names)
    trace = open_argument(trace_path)
    found = judge(trace, gpus, asked=asked(what_ifs), device=device, process=process)
    if as_json:
        write_json(fit_document(found), sys.stdout)
    else:
        write_page(fit_page(found), sys.stdout)
