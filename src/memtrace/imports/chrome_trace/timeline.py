"""What happened in a process, in order of time: calls begin and end, memory changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from memtrace.imports.chrome_trace.events import OPERATOR, ProcessEvents
from memtrace.imports.chrome_trace.totals import DeviceTotals

END, BEGIN, CHANGE, PASS_BEGIN, PASS_END = range(5)
ENGINE = "autograd::engine::evaluate_function: "


@dataclass(frozen=True)
class Happening:
    """`place`: of a call in Calls, of a change in Changes; of a pass's bounds, its thread."""

    time_ns: int
    what: int
    place: int


def happenings(
    process: ProcessEvents, devices: list[DeviceTotals], passes: list[tuple[int, int, int]]
) -> Iterator[Happening]:
    """All of them. Of one instant: first what ends, the innermost first, then what begins.

    Changes of a device are in torch's order, whatever their times say.
    """
    starts = np.frombuffer(process.calls.start_ns, np.int64)
    ends = np.frombuffer(process.calls.end_ns, np.int64)
    calls = np.arange(len(starts))
    changes = [_changes(process, device) for device in devices]
    bounds = np.array(passes, np.int64).reshape(-1, 3)
    threads = bounds[:, 2]
    rows = [  # time, what, second key, place
        (ends, END, -starts, calls),
        (starts, BEGIN, -ends, calls),
        *((times, CHANGE, np.arange(len(places)), places) for times, places in changes),
        (bounds[:, 0], PASS_BEGIN, threads, threads),
        (bounds[:, 1], PASS_END, threads, threads),
    ]
    time_ns = np.concatenate([times for times, _, _, _ in rows])
    what = np.concatenate([np.full(len(places), kind) for _, kind, _, places in rows])
    second = np.concatenate([key for _, _, key, _ in rows])
    place = np.concatenate([places for _, _, _, places in rows])
    for at in np.lexsort((second, what, time_ns)):
        yield Happening(int(time_ns[at]), int(what[at]), int(place[at]))


def _changes(process: ProcessEvents, device: DeviceTotals) -> tuple[np.ndarray, np.ndarray]:
    places = np.array(device.order, np.int64)
    times = np.frombuffer(process.changes.time_ns, np.int64)[places]
    return np.maximum.accumulate(times), places


def backward_passes(process: ProcessEvents, names: list[str]) -> list[tuple[int, int, int]]:
    """Begin, end and thread of each backward pass.

    A pass is nodes that autograd's engine runs on a thread, one after the other: it is over when
    anywhere an operator outside of the engine is called that records a graph.
    """
    calls = process.calls
    chosen = np.flatnonzero(np.frombuffer(calls.kind, np.uint8) == OPERATOR)
    starts = np.frombuffer(calls.start_ns, np.int64)
    ends = np.frombuffer(calls.end_ns, np.int64)
    engines = np.array([name.startswith(ENGINE) for name in names] + [False], np.bool_)
    order = chosen[np.lexsort((-ends[chosen], starts[chosen]))].tolist()
    passes: list[tuple[int, int, int]] = []
    under_way: dict[int, tuple[int, int]] = {}  # thread -> begin and end
    busy_until: dict[int, int] = {}  # thread -> end of its outermost call
    for place in order:
        thread, begin, end = calls.thread[place], calls.start_ns[place], calls.end_ns[place]
        if begin < busy_until.get(thread, 0):
            continue  # inside another
        busy_until[thread] = end
        if engines[calls.name[place]]:
            under_way[thread] = (under_way.get(thread, (begin, end))[0], end)
        elif calls.sequence_number[place] >= 0:
            passes += [(*under_way[running], running) for running in under_way]
            under_way.clear()
    return passes + [(*under_way[running], running) for running in under_way]
