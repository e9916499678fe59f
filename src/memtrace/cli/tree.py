"""memtrace tree"""

from __future__ import annotations

import re
import sys
from typing import Any

import click

from memtrace.analyse.chosen_rows import parse_within
from memtrace.analyse.counters import MEASURES
from memtrace.analyse.memory_tree import (
    ALLOCATED,
    LIVE,
    TEMPORARY,
    MemoryTree,
    make_tree,
    parse_order,
)
from memtrace.cli.options import (
    Command,
    TimeType,
    device_option,
    json_option,
    open_argument,
    process_option,
    trace_argument,
)
from memtrace.errors import MemtraceError
from memtrace.trace import Trace


class ShareType(click.ParamType[int]):
    """A share of the whole in permille: 1%, 0.5% or plain percent."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """At most one decimal, which is what is shown."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"\s*(\d{1,3})(?:\.(\d))?\s*%?\s*", str(value), re.ASCII)
        if match is None or (permille := 10 * int(match[1]) + int(match[2] or 0)) > 1000:
            self.fail(f"{value!r} is not a share: write 1%, 0.5% or 0", param, ctx)
        return permille


_OPTIONS = (
    click.option(
        "--by",
        default="modules",
        show_default=True,
        metavar="ORDER",
        help="modules (module, operator, source line), stack (Python frames, operator), or columns "
        "with commas between: category,label.",
    ),
    click.option(
        "--of",
        type=click.Choice(MEASURES),
        default="allocated",
        show_default=True,
        help="Which bytes.",
    ),
    click.option("--time", "time_ns", type=TimeType(), metavar="T", help="At T, not at the peak."),
    click.option(
        "--stage", metavar="NAME", help="At the peak of this stage; what was allocated in it."
    ),
    click.option(
        "--allocated",
        "is_allocated",
        is_flag=True,
        help="All that was allocated in total, freed or not, instead of what was live at the peak.",
    ),
    click.option(
        "--temporary",
        "is_temporary",
        is_flag=True,
        help="In total, what was allocated and soon freed again: within the operator call that "
        "allocated it, the outermost one, or as --within says.",
    ),
    click.option(
        "--within",
        metavar="HOW",
        help="What --temporary means by soon. call: before the operator call had ended; step: "
        "before the model's call had ended; a number N: before more than N others were allocated "
        "on the device, 0: before the next one.",
    ),
)


def tree_options(command: Command) -> Command:
    """What the tree is of, and in which order."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def wanted_tree(
    trace: Trace, *, by: str, is_allocated: bool, is_temporary: bool, within: str | None, **how: Any
) -> MemoryTree:
    """The tree that `tree_options` ask for."""
    if is_allocated and is_temporary:
        raise MemtraceError("--allocated counts temporary memory too: give one of the two")
    if within is not None and not is_temporary:
        raise MemtraceError("--within says what --temporary means: give both")
    what = TEMPORARY if is_temporary else ALLOCATED if is_allocated else LIVE
    soon = None if within is None else parse_within(within)
    return make_tree(trace, by=parse_order(by), what=what, within=soon, **how)


@click.command("tree")
@trace_argument
@tree_options
@click.option(
    "--min",
    "least_permille",
    type=ShareType(),
    default="1%",
    show_default=True,
    metavar="SHARE",
    help="The least share of the whole that is shown.",
)
@device_option
@process_option()
@json_option
def command(trace_path: str | None, least_permille: int, as_json: bool, **how: Any) -> None:
    """Who holds the bytes at a device's peak, as a tree: modules, operators, source lines.

    With --allocated what was allocated in total; with --temporary what was soon freed again.
    """
    from memtrace.progress import progress
    from memtrace.report.as_json import tree_document, write_json
    from memtrace.report.page import write_page
    from memtrace.report.tree import tree_page

    trace = open_argument(trace_path)
    with progress("reading the allocations"):
        tree = wanted_tree(trace, **how)
    if as_json:
        write_json(tree_document(tree), sys.stdout)
    else:
        write_page(tree_page(tree, least_permille=least_permille), sys.stdout)
