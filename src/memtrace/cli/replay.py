"""memtrace replay"""

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


@click.command("replay")
@trace_argument
@click.option("--alloc-conf", metavar="CONF", help="A PYTORCH_ALLOC_CONF, for the recording's own.")
@click.option("--capacity", metavar="SIZE", help="A device of this size, such as 24GiB.")
@click.option("--sweep", "sweeps", is_flag=True, help="The settings that matter, side by side.")
@click.option("--least-capacity", is_flag=True, help="The smallest device that serves them all.")
@what_if_options
@device_option
@process_option()
@json_option
def command(
    trace_path: str | None,
    alloc_conf: str | None,
    capacity: str | None,
    sweeps: bool,
    least_capacity: bool,
    device: str | None,
    process: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """What the CUDA allocator would have done under other settings, or on another GPU."""
    from memtrace.quantities import parse_size
    from memtrace.replay.conf import parse_conf
    from memtrace.replay.device import Device, recorded_device
    from memtrace.replay.engine import check_replayable, replay
    from memtrace.replay.least_capacity import least_capacity as find_least
    from memtrace.replay.requests import read_requests
    from memtrace.replay.sweep import sweep
    from memtrace.report.as_json import write_json
    from memtrace.report.page import write_page
    from memtrace.report.replay import Answer, replay_page
    from memtrace.report.replay_document import replay_document
    from memtrace.whatif.registry import apply_all

    conf = None if alloc_conf is None else parse_conf(alloc_conf)
    capacity_bytes = None if capacity is None else parse_size(capacity, "--capacity")
    trace = open_argument(trace_path)
    requests = read_requests(trace, device=device, process=process)
    check_replayable(requests)
    requests, changes = apply_all(requests, asked(given))
    given_device: Device | None = None
    if capacity_bytes is not None:
        given_device = recorded_device(requests, of_size=capacity_bytes)
    answer = Answer(
        replay=replay(requests, conf=conf, device=given_device),
        changes=changes,
        sweep=sweep(requests, device=given_device) if sweeps else None,
        least=find_least(requests, conf=conf, device=given_device) if least_capacity else None,
    )
    if as_json:
        write_json(replay_document(answer), sys.stdout)
    else:
        write_page(replay_page(answer), sys.stdout)
