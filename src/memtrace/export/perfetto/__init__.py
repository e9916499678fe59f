"""Perfetto's native format: counters, calls, stages, allocations with their callstacks, peaks.

Times are the host's monotonic clock, so traces of the processes of one host line up.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from typing import IO

from memtrace.analyse.counters import Moment, last_moment, moment_before_first
from memtrace.export.perfetto import fields as f
from memtrace.export.perfetto.allocations import write_allocations
from memtrace.export.perfetto.calls import write_calls
from memtrace.export.perfetto.counters import write_device_counters, write_samples
from memtrace.export.perfetto.packets import PacketFile, Recorded, track_uuid
from memtrace.export.perfetto.peaks import write_heap_profile, write_instants
from memtrace.export.perfetto.spans import write_spans
from memtrace.export.perfetto.survey import DeviceSurvey, Survey
from memtrace.export.wire import integer, message, text
from memtrace.outputs import Selection
from memtrace.trace import Process, Trace

#: In a file; each device of each process may have its share of them.
MOST_FLOWS = 20_000
#: With more pairs of an allocation and its free, or more bytes of packets, ui.perfetto.dev may run
#: out of memory: a browser gives it some 2 GB, and it takes up to four times the size of a file.
MOST_PAIRS = 5_000_000
MOST_BYTES = 1 << 29


def write_perfetto(trace: Trace, selection: Selection, out: IO[bytes]) -> Sequence[str]:
    """Streams the trace as TracePackets; memory grows with a byte for each allocation.

    Returns:
        What a person should know of the file, a line each.
    """
    file = PacketFile(out, selection)
    chosen = [
        (recorded, devices)
        for recorded in _recorded(trace)
        if (devices := _devices(trace, recorded, selection)) or selection.device is None
    ]
    most_flows = max(1, MOST_FLOWS // max(1, sum(len(devices) for _, devices in chosen)))
    if trace.process_list:
        _write_clocks(file, trace.process_list[0])
    surveys: list[DeviceSurvey] = []
    for recorded, devices in chosen:
        _write_process(file, recorded)
        write_spans(trace, file, recorded)
        before = {device: _before(trace, file, recorded, device) for device in devices}
        survey = Survey(trace, file, recorded, before, most_flows)
        counters = write_device_counters(trace, file, recorded, survey)
        write_samples(trace, file, recorded)
        write_calls(trace, file, recorded)
        events = write_allocations(trace, file, recorded, survey)
        for of_device in counters:
            write_instants(file, recorded, of_device)
            write_heap_profile(trace, recorded, of_device, events[of_device.device])
        surveys.extend(survey.devices.values())
    _write_attributes(file, trace, selection, _flows(surveys))
    return list(_notes(surveys, file.written_bytes))


def _notes(surveys: Sequence[DeviceSurvey], written_bytes: int) -> Iterator[str]:
    if any(survey.flows < survey.pairs for survey in surveys):
        yield _flows(surveys)
    written = sum(survey.written for survey in surveys)
    if written > MOST_PAIRS or written_bytes > MOST_BYTES:
        yield (
            f"{written:,} allocations, {written_bytes >> 20:,} MiB of packets: ui.perfetto.dev may "
            "run out of memory; give --window A,B for a part"
        )


def _recorded(trace: Trace) -> list[Recorded]:
    found: list[Recorded] = []
    for process in trace.process_list:
        first = found[0].process if found else process
        origin_ns = process.row["clock_origin_ns"] or 0
        if (process.row["host"], process.row["boot_id"]) != (
            first.row["host"],
            first.row["boot_id"],
        ):
            # Another machine's clock began at another time: the time of day has to do.
            unix_ns = [(p.row["clock_origin_unix_ns"] or 0) for p in (process, first)]
            origin_ns = max(0, found[0].origin_ns + unix_ns[0] - unix_ns[1])
        found.append(Recorded(process, track_uuid(process.key), origin_ns))
    return found


def _devices(trace: Trace, recorded: Recorded, selection: Selection) -> list[str]:
    devices = trace.devices_by_process[recorded.key]
    return [device for device in devices if selection.device in (None, device)]


def _before(trace: Trace, file: PacketFile, recorded: Recorded, device: str) -> Moment | None:
    if not file.starts_late:
        return None
    until_ns = file.window_ns[0] - 1
    moment = last_moment(trace, process=recorded.key, device=device, until_ns=until_ns)
    return moment or moment_before_first(recorded.key, device)


def _write_clocks(file: PacketFile, process: Process) -> None:
    """Ties the packets' clock to the time of day, and to the clock of heap profiles."""
    monotonic = process.row["clock_origin_ns"] or 0
    unix = process.row["clock_origin_unix_ns"] or 0
    file.packet(
        message(
            f.PACKET_CLOCK_SNAPSHOT,
            # Perfetto's packets are in BOOTTIME unless they say otherwise; it equals MONOTONIC
            # but for time spent suspended, which would put all clocks of this trace off alike.
            *(
                message(1, integer(1, clock), integer(2, time_ns))
                for clock, time_ns in (
                    (f.CLOCK_BOOTTIME, monotonic),
                    (f.CLOCK_MONOTONIC, monotonic),
                    (f.CLOCK_MONOTONIC_COARSE, monotonic),
                    (f.CLOCK_REALTIME, unix),
                )
            ),
        )
    )


def _write_process(file: PacketFile, recorded: Recorded) -> None:
    process = recorded.process
    argv = process.argv
    name = shlex.join(argv) if argv else f"pid {process.pid}"
    if process.rank is not None:
        name = f"rank {process.rank}: {name}"
    descriptor = message(
        f.TRACK_PROCESS,
        integer(1, process.pid),
        *(text(2, word) for word in argv or ()),
        text(6, name),
    )
    file.packet(
        message(f.PACKET_TRACK_DESCRIPTOR, integer(f.TRACK_UUID, recorded.uuid), descriptor)
    )


def _flows(surveys: Sequence[DeviceSurvey]) -> str:
    """Which allocations lead to their frees."""
    flows, pairs = (sum(getattr(s, name) for s in surveys) for name in ("flows", "pairs"))
    if flows == pairs:
        return f"flows: each of {pairs:,} allocations leads to its free"
    cut = [survey.smallest_bytes for survey in surveys if survey.flows < survey.pairs]
    return (
        f"flows: the {flows:,} largest of {pairs:,} allocations lead to their frees: "
        f"those of {max(cut):,} bytes and more"
    )


def _write_attributes(file: PacketFile, trace: Trace, selection: Selection, flows: str) -> None:
    """What the file is of: perfetto shows it beside the trace."""
    said = {"memtrace.trace": trace.path.name, "memtrace.flows": flows}
    said["memtrace.weights"] = "bytes"
    if selection.device is not None:
        said["memtrace.device"] = selection.device
    if selection.window_ns is not None:
        said["memtrace.window_ns"] = json.dumps(selection.window_ns)
    file.packet(
        message(
            f.PACKET_TRACE_ATTRIBUTES,
            *(message(1, text(1, key), text(3, value)) for key, value in said.items()),
        )
    )
