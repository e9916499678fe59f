"""memtrace diff"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import click

from memtrace.analyse.allowance import parse_allowance
from memtrace.analyse.counters import MEASURES
from memtrace.analyse.diff import DIFF_BY, make_diff
from memtrace.cli.destination import STANDARD_OUTPUT
from memtrace.cli.options import device_option, json_option, top_option
from memtrace.errors import MemtraceError, readable


@click.command("diff")
@click.argument("a_path", metavar="A")
@click.argument("b_path", metavar="B")
@click.option(
    "--by",
    type=click.Choice(DIFF_BY),
    default="category",
    show_default=True,
    metavar="COLUMN",
    help="Whom to tell changes by: category, module, operator, source, label, stack, ...",
)
@click.option(
    "--of", type=click.Choice(MEASURES), default="allocated", show_default=True, help="Which bytes."
)
@click.option(
    "--fail-if-peak-grows",
    "allowed_text",
    metavar="HOW_MUCH",
    help="Exit status 1 if B's peak on a device is larger than A's by more: 2%, 100MiB, 0%.",
)
@top_option
@click.option("-o", "--output", metavar="FILE", help="Write a page of HTML as well.")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@device_option
@json_option
def command(
    a_path: str,
    b_path: str,
    by: str,
    of: str,
    allowed_text: str | None,
    top: int,
    output: str | None,
    force: bool,
    device: str | None,
    as_json: bool,
) -> None:
    """What changed from trace A to trace B: at the peak, at the ends of stages, in each step.

    Of each device, the process with the largest peak. A source line that moved within its function
    is the same owner. The exit status is 0 whatever changed, unless --fail-if-peak-grows says
    otherwise.
    """
    from memtrace.output_file import output_file
    from memtrace.page.diff import DIFF_PAGE_BY, write_diff_page
    from memtrace.progress import progress
    from memtrace.report.as_json import diff_document, write_json
    from memtrace.report.diff import diff_page, grown_too_much
    from memtrace.report.page import write_page
    from memtrace.trace import open_trace

    allowed = None if allowed_text is None else parse_allowance(allowed_text)
    if output in STANDARD_OUTPUT:
        raise MemtraceError("standard output is where the table goes: name a file with -o")
    a, b = open_trace(a_path), open_trace(b_path)
    if output is None:
        with progress("comparing"):
            diff = make_diff(a, b, by=[by], of=of, device=device)
    else:
        every = tuple(dict.fromkeys([by, *DIFF_PAGE_BY]))
        with output_file(Path(output), force=force) as out, progress("comparing"):
            diff = make_diff(a, b, by=every, of=of, device=device)
            write_diff_page(diff, out, allowed=allowed)
        diff = replace(diff, by=(by,))
    if as_json:
        write_json(diff_document(diff), sys.stdout)
    else:
        write_page(diff_page(diff, top=top), sys.stdout)
        if output is not None:
            click.echo(f"{readable(output)}: open it in a browser")
    failure = None if allowed is None else grown_too_much(diff, allowed)
    if failure is not None:
        sys.stdout.flush()
        raise MemtraceError(failure)
