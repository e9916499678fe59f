"""Workers on a machine: what one needs of its memory, and how many there is room for.

What the system counts of a process (RSS) is its tensors and all else. What several workers share is
counted once: mapped weights, and pages of the parent that a child has not written to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from memtrace.analyse.counters import integers
from memtrace.analyse.live_set import live_allocations
from memtrace.analyse.readings import Readings
from memtrace.analyse.weights import largest_external
from memtrace.errors import MemtraceError
from memtrace.fit.error_band import band_permille
from memtrace.fit.served import serve
from memtrace.fit.stage_needs import IDLE, StageNeed, allocated_at, stage_needs
from memtrace.replay.outcome import Outcome, serve_on_host
from memtrace.replay.requests import Requests, read_requests
from memtrace.trace import Process, Trace
from memtrace.whatif.registry import apply_all

#: Of an instance or a limit, what stays free: samples miss peaks, and the kernel needs some.
HEADROOM_PERMILLE = 100
_HOST, _CPU = "host", "cpu"
_SHARED_KINDS = ("mapped", "shared")


@dataclass(frozen=True)
class Worker:
    """One process, in resident bytes; `shared_bytes` are in all of them.

    Attributes:
        idle_bytes: before it works.
        peak_bytes: the most, with the tensors of their exact peak.
        tensors_bytes: of that.
        shared_bytes: counted once, however many workers there are.
        pss_bytes: the largest that was sampled; None: it was not.
    """

    idle_bytes: int
    peak_bytes: int
    tensors_bytes: int
    shared_bytes: int
    pss_bytes: int | None

    def together(self, workers: int, *, idle: bool = False) -> int:
        """What so many need at once, all at their peak."""
        each = self.idle_bytes if idle else self.peak_bytes
        return self.shared_bytes + workers * max(each - self.shared_bytes, 0)

    def most_in(self, usable_bytes: int) -> int:
        """How many there is room for."""
        each = max(self.peak_bytes - self.shared_bytes, 1)
        return max(usable_bytes - self.shared_bytes, 0) // each


@dataclass(frozen=True)
class Instance:
    """A machine or container. `workers`: the most at once; `needed_bytes`: what they need then."""

    size_bytes: int
    usable_bytes: int
    workers: int
    needed_bytes: int


@dataclass(frozen=True)
class Density:
    """A program on machines.

    Attributes:
        asked_workers: how many are wanted; None: as many as there is room for.
        asked_bytes: what those need.
        stages: what each held of tensors.
    """

    trace: Trace
    process: Process
    what: tuple[str, ...]
    worker: Worker
    band_permille: int
    stages: tuple[StageNeed, ...]
    asked_workers: int | None
    asked_bytes: int | None
    instances: tuple[Instance, ...]
    assumptions: tuple[str, ...]


def find_density(
    trace: Trace,
    instances: Sequence[int],
    *,
    workers: int | None = None,
    asked: Mapping[str, Sequence[str]] | None = None,
    process: str | int | None = None,
) -> Density:
    """How many workers fit into machines of these sizes, in bytes.

    Raises:
        MemtraceError: there is no such process, or nothing was sampled of it.
    """
    asked = asked or {}
    recorded = _host_requests(trace, process)
    requests, changes = apply_all(recorded, asked)
    after = serve(requests, on_gpu=False).outcome
    worker = measure_worker(trace, serve_on_host(recorded), after)
    usable = {size: size - size * HEADROOM_PERMILLE // 1000 for size in instances}
    found = []
    for size in instances:
        most = worker.most_in(usable[size])
        found.append(Instance(size, usable[size], most, worker.together(most)))
    lines = [line for change in changes for line in change.assumptions]
    lines += [
        f"{HEADROOM_PERMILLE / 10:g} % stay free: a peak may fall between two samples of RSS",
        "all workers at their peak at once, and each does as the recorded process did",
        "all that is not tensors (Python, libraries) is as large as it was near the peak",
    ]
    if not len(recorded):
        lines.append("no tensors of the CPU were recorded: all is as sampled")
    if worker.shared_bytes:
        lines.append("what is shared stays so: no worker writes to it")
    return Density(
        trace=trace,
        process=recorded.process,
        what=tuple(change.what for change in changes),
        worker=worker,
        band_permille=band_permille(asked),
        stages=stage_needs(after),
        asked_workers=workers,
        asked_bytes=None if workers is None else worker.together(workers),
        instances=tuple(found),
        assumptions=tuple(dict.fromkeys(lines)),
    )


def _host_requests(trace: Trace, process: str | int | None) -> Requests:
    """Those of the CPU; none of a process of which only a GPU was recorded."""
    if _CPU in trace.devices:
        return read_requests(trace, device=_CPU, process=process)
    found = read_requests(trace, process=process)
    nothing = found.chosen(np.zeros(len(found), np.bool_))
    return replace(nothing, device=_CPU, failures=(), marks=(), changed=False)


def measure_worker(trace: Trace, before: Outcome, after: Outcome) -> Worker:
    """A process as it was sampled, its tensors exchanged for those of `after`.

    Raises:
        MemtraceError: nothing was sampled of it.
    """
    process = before.requests.process
    readings = Readings(trace, process.key)
    series = readings.all(_HOST, "rss")
    if not series:
        raise MemtraceError(
            f"nothing was sampled of the memory of {process}: it ended too soon, or was not "
            "recorded by memtrace run"
        )
    peak = before.peak()
    tensors = [allocated_at(before, reading.seq - 0.5) for reading in series]
    largest = max(reading.value_bytes for reading in series)
    # Between two samples: the exact peak of tensors, on what else there was at the nearest place.
    places = np.array([reading.seq for reading in series]) - 0.5
    nearest = int(np.abs(places - peak.place).argmin())
    beside = series[nearest].value_bytes - tensors[nearest]
    resident = max(largest, beside + peak.total_bytes)
    idle_before, idle_after = _idle(before), _idle(after)
    idle_at = int(np.searchsorted(places, idle_before[1], side="right"))
    idle = series[max(idle_at - 1, 0)]
    idle_bytes = idle.value_bytes - allocated_at(before, idle.seq - 0.5) + idle_before[0]
    pss = readings.largest(_HOST, "pss")
    return Worker(
        idle_bytes=min(idle_bytes, resident) + idle_after[0] - idle_before[0],
        peak_bytes=resident + after.peak().total_bytes - peak.total_bytes,
        tensors_bytes=after.peak().total_bytes,
        shared_bytes=_shared(trace, process, readings),
        pss_bytes=None if pss is None else pss.value_bytes,
    )


def _idle(outcome: Outcome) -> tuple[int, float]:
    """Bytes of tensors before the work, and where; of a program that is never idle, at its peak."""
    found = [need for need in stage_needs(outcome) if need.name == IDLE]
    if found:
        return found[0].peak_bytes, found[0].place
    peak = outcome.peak()
    return peak.total_bytes, peak.place


def _shared(trace: Trace, process: Process, readings: Readings) -> int:
    """Mapped and shared memory of tensors, and what was really shared when it was looked at."""
    mapped = 0
    found = largest_external(trace, process=process.key, device="cpu")
    if found is not None:
        columns = ["memory", "resident_bytes"]
        live = live_allocations(trace, found[0], of="allocated", columns=columns, external=True)
        kinds = pa.array(np.isin(live.column("memory").to_pylist(), _SHARED_KINDS))
        mapped = int(integers(live.filter(kinds), "resident_bytes").sum())
    really = 0
    for uss in readings.all(_HOST, "uss"):
        rss = readings.nearest(_HOST, "rss", uss.time_ns)
        if rss is not None:
            really = max(really, rss.value_bytes - uss.value_bytes)
    # Another recorded process that maps the same: then it is among what was shared.
    others = len(trace.process_list) > 1
    return max(mapped, really) if others else mapped + really
