"""memtrace sweep"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click

from memtrace.cli.options import device_option, json_option
from memtrace.errors import MemtraceError, readable

_INTERRUPTED = 130
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@click.command(
    "sweep",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.option("--batch", metavar="LIST", help="Batch sizes to run with: 1,2,4,8.")
@click.option("--sequence", metavar="LIST", help="Sequence lengths to run with: 128,256.")
@click.option(
    "--env",
    "variables",
    metavar="NAME",
    multiple=True,
    help="The environment variable that the program reads; batch=NAME where both are swept. "
    "By default MEMTRACE_BATCH and MEMTRACE_SEQUENCE.",
)
@click.option("-o", "--output", metavar="DIR", help="Where the traces go; by default NAME.sweep.")
@click.option("--force", is_flag=True, help="Replace traces that are in DIR already.")
@click.option("--capacity", metavar="SIZE", help="Of the device, for torch: 24GiB.")
@device_option
@json_option
@click.argument("words", metavar="(SCRIPT | -m MODULE | -c CODE) [ARGS]...", nargs=-1,
                type=click.UNPROCESSED)  # fmt: skip
def command(
    batch: str | None,
    sequence: str | None,
    variables: tuple[str, ...],
    output: str | None,
    force: bool,
    capacity: str | None,
    device: str | None,
    as_json: bool,
    words: tuple[str, ...],
) -> int:
    """Record a program once for each batch size: the curve of its peak, and the largest that fits.

    {batch} and {sequence} in ARGS stand for the value of the run; the environment says it too.
    Options of `memtrace run` may stand before SCRIPT.

    \b
    memtrace sweep --batch 1,2,4,8 serve.py --batch-size {batch}
    memtrace sweep --batch 8,16,32 --env BATCH_SIZE train.py
    """
    from memtrace.fit.sweep import curves
    from memtrace.fit.sweep_runs import Plan, check, run_all, values_of
    from memtrace.quantities import parse_size
    from memtrace.report.as_json import write_json
    from memtrace.report.page import write_page
    from memtrace.report.sweep import sweep_document, sweep_page

    given = {"batch": batch, "sequence": sequence}
    values = {name: values_of(text, name) for name, text in given.items() if text is not None}
    if not values:
        raise MemtraceError("sweep: what to vary? --batch 1,2,4,8, --sequence 128,256, or both")
    capacity_bytes = None if capacity is None else parse_size(capacity, "--capacity")
    name = _program_name(words)
    folder = Path(output) if output is not None else _free_folder(name)
    plan = Plan(values, _variables(variables, list(values)), words, folder, force, device)
    check(plan)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    runs, interrupted = [], False
    try:
        for run in run_all(plan, lambda line: click.echo(f"memtrace: {line}", err=True)):
            runs.append(run)
    except KeyboardInterrupt:
        interrupted = True
    dimension = next(iter(values))
    found = curves(runs, dimension, capacity_bytes=capacity_bytes)
    if as_json:
        write_json(sweep_document(found, runs, folder), sys.stdout)
    else:
        write_page(sweep_page(found, runs, folder), sys.stdout)
    if interrupted:
        click.echo(
            f"memtrace: interrupted; what was recorded is in {readable(str(folder))}", err=True
        )
        return _INTERRUPTED
    return 0


def _program_name(words: tuple[str, ...]) -> str:
    from memtrace.run import arguments

    try:
        parsed = arguments.parse(list(words))
    except MemtraceError as error:
        raise MemtraceError(str(error).replace("run:", "sweep:", 1)) from None
    if parsed is None:
        raise MemtraceError("sweep: what to run? memtrace sweep --batch 1,2,4 SCRIPT")
    if parsed.output is not None or parsed.force:
        raise MemtraceError(
            "sweep: -o and --force are the sweep's: write them before other options"
        )
    if parsed.kind == "-":
        raise MemtraceError("sweep: a program on the standard input can be run only once")
    if parsed.kind == "script" and not Path(parsed.what).exists():
        raise MemtraceError(f"sweep: no such script: {readable(parsed.what)}")
    return parsed.name


def _free_folder(name: str) -> Path:
    number = 1
    while True:
        folder = Path(f"{name}.sweep" if number == 1 else f"{name}.{number}.sweep")
        if not folder.exists():
            return folder
        number += 1


def _variables(given: tuple[str, ...], dimensions: list[str]) -> dict[str, str]:
    found = {name: f"MEMTRACE_{name.upper()}" for name in dimensions}
    for text in given:
        dimension, equals, name = text.partition("=")
        if not equals and len(dimensions) == 1:
            dimension, name = dimensions[0], text
        if dimension not in found or not _NAME.fullmatch(name):
            example = " or ".join(f"{name}=NAME" for name in dimensions)
            raise MemtraceError(f"--env {text}: write the name of a variable, {example}")
        found[dimension] = name
    return found
