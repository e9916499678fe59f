"""Peaks and failed allocations as instants, and who held a device's memory at its peak."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from memtrace.analyse.counters import BEFORE_FIRST, integers, moment_at_seq
from memtrace.analyse.live_set import BYTES, live_allocations
from memtrace.export.perfetto import fields as f
from memtrace.export.perfetto import stacks
from memtrace.export.perfetto.allocations import DeviceEvents
from memtrace.export.perfetto.counters import DeviceCounters
from memtrace.export.perfetto.packets import PacketFile, Recorded, Words
from memtrace.export.perfetto.spans import annotation
from memtrace.export.wire import Int64s, integer, message, text
from memtrace.trace import Trace

_SAMPLES_PER_PACKET = 1024


def write_instants(file: PacketFile, recorded: Recorded, counters: DeviceCounters) -> None:
    """When each total was highest, and which allocations failed."""
    device = counters.device
    sequence = file.sequence(recorded, file.track(recorded, f"{device} peaks and failures"))
    names = Words(f.INTERNED_EVENT_NAMES)
    told: list[tuple[int, str, dict[str, int]]] = [
        (peak.time_ns, f"peak {of}", {"bytes": peak.total_bytes, "seq": max(peak.seq, 0)})
        for of, peak in counters.peaks.items()
    ]
    for failure in counters.failures:
        figures = {"asked for, bytes": failure.size_bytes}
        if failure.free_bytes is not None:
            figures["free on the device, bytes"] = failure.free_bytes
        told.append((failure.time_ns, "out of memory", figures))
    for time_ns, name, figures in sorted(told, key=lambda item: item[:2]):
        word = names.id_of(name)
        sequence.teach_word(names, word)
        sequence.event(
            time_ns,
            integer(f.EVENT_TYPE, f.TYPE_INSTANT),
            integer(f.EVENT_NAME_IID, word),
            *(annotation(key, value) for key, value in figures.items()),
        )


def write_heap_profile(
    trace: Trace, recorded: Recorded, counters: DeviceCounters, events: DeviceEvents
) -> None:
    """The live set at the peak of *allocated*, as the heap profile of one instant."""
    peak = counters.peaks.get("allocated")
    if peak is None or peak.seq == BEFORE_FIRST or not peak.total_bytes:
        return
    device, sequence = counters.device, events.sequence
    moment = moment_at_seq(trace, process=recorded.key, device=device, seq=peak.seq)
    live = live_allocations(trace, moment, of="allocated", columns=stacks.COLUMNS)
    ids = integers(live, "stack_id", missing=-1)
    events.callstacks.teach(np.bincount(ids[ids >= 0]).astype(np.bool_))
    numbers, places = np.unique(events.callstacks.numbers(live), return_inverse=True)
    held = np.zeros(len(numbers), np.int64)
    np.add.at(held, places, integers(live, BYTES))
    counts = np.bincount(places, minlength=len(numbers))
    samples = list(_samples(numbers, held, counts))
    for index, at in enumerate(range(0, len(samples), _SAMPLES_PER_PACKET)):
        more = at + _SAMPLES_PER_PACKET < len(samples)
        dump = message(
            f.PROFILE_DUMPS,
            integer(f.DUMP_PID, recorded.process.pid),
            integer(f.DUMP_TIME, sequence.clock_ns(peak.time_ns)),
            # The UI takes what is behind a colon for something else.
            text(f.DUMP_HEAP, f"{device.replace(':', ' ')}, live at the peak"),
            *samples[at : at + _SAMPLES_PER_PACKET],
        )
        sequence.packet(
            message(
                f.PACKET_PROFILE,
                dump,
                integer(f.PROFILE_CONTINUED, more),
                integer(f.PROFILE_INDEX, index),
            ),
            time_ns=peak.time_ns,
        )


def _samples(numbers: Int64s, held: Int64s, counts: Int64s) -> Iterator[bytes]:
    for number, size_bytes, count in zip(
        numbers.tolist(), held.tolist(), counts.tolist(), strict=True
    ):
        yield message(
            f.DUMP_SAMPLES,
            integer(f.SAMPLE_CALLSTACK, number),
            integer(f.SAMPLE_BYTES, size_bytes),
            integer(f.SAMPLE_COUNT, count),
        )
