"""memtrace fit"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from memtrace.cli.options import (
    device_option,
    json_option,
    open_argument,
    process_option,
    top_option,
    trace_argument,
)
from memtrace.cli.what_if_options import asked, what_if_options

if TYPE_CHECKING:
    from memtrace.fit.catalogue import Gpu
    from memtrace.report.page import Block

#: Machines that a program is held against where none is named.
_INSTANCES = ("2GiB", "4GiB", "8GiB", "16GiB", "32GiB", "64GiB")
_CPU = "cpu"
Answer = tuple["Sequence[Block]", dict[str, Any]]


@click.command("fit")
@trace_argument
@click.option("--gpu", "names", metavar="NAMES", help="With commas: t4,a100-80. By default all.")
@click.option("--gpus", "gpus_path", metavar="FILE.csv", help="GPUs and prices to add.")
@click.option(
    "--price",
    "prices",
    metavar="NAME=P",
    multiple=True,
    help="Of an hour, in dollars, instead of the catalogue's: h100=2.5.",
)
@click.option("--instance", "instances", metavar="SIZE", multiple=True, help="A machine: 16GiB.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Processes side by side.")
@click.option("--kubernetes", is_flag=True, help="Print requests and limits as YAML instead.")
@click.option("--verify", "other_path", metavar="OTHER", help="Hold it against this recording.")
@click.option("--parameters", metavar="N", help="No trace: the sums of so many: 7e9, 7B, 350M.")
@what_if_options
@top_option
@device_option
@process_option()
@json_option
def command(trace_path: str | None, as_json: bool, **options: Any) -> None:
    """Where the recorded program fits, or what a what-if makes of it.

    On which GPUs, with what headroom and at what price. With --device cpu, --instance or --workers:
    how many workers on a machine.
    """
    from memtrace.report.as_json import write_json
    from memtrace.report.page import write_page

    for name, word in (("instances", "--instance"), ("workers", "--workers")):
        if options[name] and options["names"] is not None:
            raise click.UsageError(f"--gpu or {word}: give one of them")
    if options["kubernetes"] and options["instances"]:
        raise click.UsageError("--kubernetes asks for what is needed: it takes no --instance")
    if options["parameters"] is not None:
        if trace_path is not None:
            raise click.UsageError("--parameters takes no trace: give one of them")
        blocks, document = _sums(options)
    elif options["other_path"] is not None:
        blocks, document = _verification(trace_path, options)
    elif options["kubernetes"]:
        text, document = _kubernetes(trace_path, options)
        if not as_json:
            click.echo(text, nl=False)
            return
        blocks = []
    elif _about_machines(options):
        blocks, document = _workers(trace_path, options)
    else:
        blocks, document = _gpus(trace_path, options)
    if as_json:
        write_json(document, sys.stdout)
    else:
        write_page(blocks, sys.stdout)


def _about_machines(options: dict[str, Any]) -> bool:
    machines = bool(options["instances"] or options["workers"])
    return machines or (options["device"] == _CPU and options["names"] is None)


def _chosen_gpus(options: dict[str, Any]) -> list[Gpu]:
    from memtrace.fit.catalogue import choose, read_catalogue

    catalogue = read_catalogue(options["gpus_path"], options["prices"])
    if options["names"] is None:
        return list(catalogue.values())
    return choose(catalogue, options["names"])


def _gpus(trace_path: str | None, options: dict[str, Any]) -> Answer:
    from memtrace.fit.judge import judge
    from memtrace.progress import progress
    from memtrace.report.fit import fit_page
    from memtrace.report.fit_json import fit_document

    gpus = _chosen_gpus(options)
    trace = open_argument(trace_path)
    with progress("replaying"):
        found = judge(
            trace,
            gpus,
            asked=asked(options),
            device=options["device"],
            process=options["process"],
            top=options["top"],
        )
    return fit_page(found), fit_document(found)


def _sums(options: dict[str, Any]) -> Answer:
    from memtrace.fit.arithmetic import add_up
    from memtrace.quantities import parse_count
    from memtrace.report.arithmetic import arithmetic_document, arithmetic_page

    given = asked(options)
    others = [f"--{name}" for name in given if name != "dtype"]
    if others:
        raise click.UsageError(f"{others[0]} needs a trace: --parameters has only --dtype")
    found = add_up(
        parse_count(options["parameters"], "--parameters"),
        _chosen_gpus(options),
        dtypes=given.get("dtype", ()),
    )
    return arithmetic_page(found), arithmetic_document(found)


def _verification(trace_path: str | None, options: dict[str, Any]) -> Answer:
    from memtrace.fit.verify import verify
    from memtrace.report.verification import verification_document, verification_page
    from memtrace.trace import open_trace

    found = verify(
        open_argument(trace_path),
        open_trace(options["other_path"]),
        asked=asked(options),
        device=options["device"],
        process=options["process"],
    )
    return verification_page(found, top=options["top"]), verification_document(found)


def _workers(trace_path: str | None, options: dict[str, Any]) -> Answer:
    from memtrace.fit.workers import find_density
    from memtrace.quantities import parse_size
    from memtrace.report.workers import workers_document, workers_page

    sizes = [parse_size(text, "--instance") for text in options["instances"] or _INSTANCES]
    found = find_density(
        open_argument(trace_path),
        sizes,
        workers=options["workers"],
        asked=asked(options),
        process=options["process"],
    )
    return workers_page(found), workers_document(found)


def _kubernetes(trace_path: str | None, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    from memtrace.fit.judge import YES, judge
    from memtrace.fit.workers import find_density
    from memtrace.report.workers import kubernetes_resources, kubernetes_yaml

    trace = open_argument(trace_path)
    what_ifs, process = asked(options), options["process"]
    wants_gpu = not _about_machines(options) and (
        options["names"] is not None or trace.devices != [_CPU]
    )
    fits = ""
    if wants_gpu:
        found = judge(
            trace, _chosen_gpus(options), asked=what_ifs, device=options["device"], process=process
        )
        # A what-if is about the GPU then: the host's memory is as recorded.
        what_ifs, process = {}, found.process.key
        fitting = [v.gpu.name for v in found.verdicts if v.fits == YES]
        fits = f"fits {len(fitting):,} of {len(found.verdicts):,}"
        if found.cheapest:
            fits += f", the cheapest {found.cheapest.name}"
    density = find_density(trace, [], workers=options["workers"], asked=what_ifs, process=process)
    gpus = 1 if wants_gpu else 0
    text = kubernetes_yaml(density, gpus=gpus, why_gpu=fits)
    return text, {"resources": kubernetes_resources(density, gpus=gpus)}
