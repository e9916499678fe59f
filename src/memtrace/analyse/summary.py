"""The first answer: what ran, what it held at its peaks, and what to look at next."""

from __future__ import annotations

from dataclasses import dataclass

from memtrace.analyse.breakdown import Breakdown
from memtrace.analyse.counters import (
    Highest,
    highest,
    last_moment,
    moment_at_seq,
    settled,
)
from memtrace.analyse.failures import Oom, describe, find_failures
from memtrace.analyse.fragmentation import Pin, at_peak
from memtrace.analyse.readings import Readings
from memtrace.analyse.snapshot import External, snapshot_at
from memtrace.analyse.target import check_device, total_bytes, why_empty
from memtrace.analyse.weights import Weights, largest_external, weights_at
from memtrace.errors import encodable, readable
from memtrace.schema import LOST_WORDS
from memtrace.trace import Process, Trace
from memtrace.trace_json import parsed_object

OPERATORS_SHOWN = 5
#: Unused memory below this is not worth asking who pins it.
PINS_LEAST_BYTES = 8 * 2**20
PINS_SHOWN = 2


@dataclass(frozen=True)
class Extreme:
    """A peak of one measure, and when it was first reached."""

    total_bytes: int
    time_ns: int
    seq: int


@dataclass(frozen=True)
class DeviceUse:
    """What one process did with one device.

    Attributes:
        weights: at the peak of allocated, or where most memory beside the allocator's was known:
            at the one of the two instants that has more of them.
        pinned_bytes: pinned host memory at the peak of allocated, which is part of it.
        external: memory beside the allocator's where there was most of it.
        unused_at_reserved_peak_bytes: reserved and held by no block at the peak of reserved.
        pins: the owners whose blocks kept most of it from going back.
        ooms: how many requests failed; `last_oom`: the last of them.
    """

    device: str
    name: str
    device_total_bytes: int | None
    allocated: Extreme | None
    active: Extreme | None
    reserved: Extreme | None
    end_allocated_bytes: int | None
    end_reserved_bytes: int | None
    operators: Breakdown | None
    categories: Breakdown | None
    weights: Weights
    pinned_bytes: int
    external: External
    unused_at_reserved_peak_bytes: int | None
    pins: tuple[Pin, ...] = ()
    ooms: int = 0
    last_oom: Oom | None = None

    @property
    def bf16_saving_bytes(self) -> int:
        """What the float32 weights would not take as bfloat16: an estimate."""
        return self.weights.fp32_weight_bytes // 2


@dataclass(frozen=True)
class ProcessSummary:
    """One process: what ran, what was lost, and each device that it used.

    Attributes:
        lost: what is missing by kind, all kinds, also when 0.
        lost_total: how many records are missing; 0 where only words are (`cut`).
        rss_peak: the largest RSS that was sampled, of a process without events (seq: of the event
            that follows).
    """

    process: Process
    parent_pid: int | None
    duration_ns: int | None
    events: int
    allocations: int
    lost: dict[str, int]
    lost_total: int
    unmatched_frees: int
    unrecorded_children: int
    unscanned_models: int
    reconciled: str
    devices: tuple[DeviceUse, ...]
    rss_peak: Extreme | None = None

    @property
    def bounding(self) -> dict[str, int]:
        """The losses that make figures bounds."""
        return {k: n for k, n in self.lost.items() if n and k not in LOST_WORDS}

    @property
    def cut(self) -> dict[str, int]:
        """The losses that cost the end of a stack or a name, and no byte."""
        return {k: n for k, n in self.lost.items() if n and k in LOST_WORDS}


@dataclass(frozen=True)
class Summary:
    """The whole trace.

    Attributes:
        root: the program itself, which started the others.
        main: the process whose peak is the largest: its devices are what a reader wants first.
        empty: why there is not a single event; None when there is one.
        running: keys of processes that have not ended.
    """

    path: str
    empty: str | None
    processes: tuple[ProcessSummary, ...]
    running: tuple[str, ...]
    root: str | None
    main: str | None

    @property
    def events(self) -> int:
        return sum(process.events for process in self.processes)

    @property
    def lost_total(self) -> int:
        return sum(process.lost_total for process in self.processes)

    @property
    def allocations(self) -> int:
        return sum(process.allocations for process in self.processes)


def summarise(trace: Trace, *, device: str | None = None) -> Summary:
    """Reads footers, counters and the live sets at the peaks; never all rows.

    Args:
        device: only this one; every device when left out.
    """
    check_device(trace, device)
    processes = tuple(_process(trace, process, device) for process in trace.process_list)
    return Summary(
        path=readable(str(trace.path)),
        empty=None if trace.devices else why_empty(trace),
        processes=processes,
        running=trace.running,
        root=_root(processes),
        main=_main(processes),
    )


def _root(processes: tuple[ProcessSummary, ...]) -> str | None:
    keys = [p.process.key for p in processes if p.process.row["start_method"] == "main"]
    # Of a trace whose program could not be recorded: the first that could.
    return next(iter([*keys, *(p.process.key for p in processes)]), None)


def _main(processes: tuple[ProcessSummary, ...]) -> str | None:
    def weight(summary: ProcessSummary) -> tuple[int, int]:
        held = [
            (u.device != "cpu", u.allocated.total_bytes) for u in summary.devices if u.allocated
        ]
        return max(((int(gpu), size) for gpu, size in held), default=(-1, 0))

    if not any(summary.devices for summary in processes):
        return _largest_sampled(processes)
    return max(processes, key=weight).process.key if processes else None


def _largest_sampled(processes: tuple[ProcessSummary, ...]) -> str | None:
    def weight(summary: ProcessSummary) -> int:
        return -1 if summary.rss_peak is None else summary.rss_peak.total_bytes

    return max(processes, key=weight).process.key if processes else None


def _process(trace: Trace, process: Process, only: str | None) -> ProcessSummary:
    row = process.row
    used = trace.devices_by_process[process.key]
    devices = [device for device in used if only in (None, device)]
    return ProcessSummary(
        process=process,
        parent_pid=row["parent_pid"] if row["parent"] else None,
        duration_ns=row["end_time_ns"],
        events=trace.datasets["events"].num_rows(process.key),
        allocations=trace.datasets["allocations"].num_rows(process.key),
        lost=_lost(row["lost_events"]),
        lost_total=row["lost_total"] or 0,
        unmatched_frees=row["unmatched_frees"] or 0,
        unrecorded_children=row.get("unrecorded_children") or 0,
        unscanned_models=row.get("unscanned_models") or 0,
        reconciled=_reconciled(process, used),
        devices=tuple(_device(trace, process, device) for device in devices),
        rss_peak=None if used else _rss_peak(trace, process),
    )


def _rss_peak(trace: Trace, process: Process) -> Extreme | None:
    found = Readings(trace, process.key).largest("host", "rss")
    return None if found is None else Extreme(found.value_bytes, found.time_ns, found.seq)


def _lost(text: str | None) -> dict[str, int]:
    kinds = parsed_object(text).items()
    return {encodable(kind): count for kind, count in kinds if isinstance(count, int)}


def _reconciled(process: Process, used: list[str]) -> str:
    row = process.row
    note = row["reconcile_note"]
    if row["reconciled"] is None:
        why = "torch gave no counters to check against"
        if used == ["cpu"]:
            why = "torch keeps no counters of the CPU"
        return f"not checked: {note or why}"
    suffix = f" ({note})" if note else ""
    if row["reconciled"]:
        return f"yes{suffix}"
    return f"differs by {row['mismatch_bytes'] or 0:,} bytes{suffix}"


def _device(trace: Trace, process: Process, device: str) -> DeviceUse:
    key = process.key
    peaks = {
        of: highest(trace, process=key, device=device, of=of)
        for of in ("allocated", "active", "reserved")
    }
    end = last_moment(trace, process=key, device=device)
    top = peaks["allocated"]
    largest = largest_external(trace, process=key, device=device)
    external = External() if largest is None else largest[1]
    weights = [] if largest is None else [weights_at(trace, largest[0])]
    pinned = 0
    operators = categories = None
    if top is not None:
        moment = moment_at_seq(trace, process=key, device=device, seq=top.seq)
        snapshot = snapshot_at(
            trace, moment, process, of="allocated", by="operator", top=OPERATORS_SHOWN
        )
        weights.append(weights_at(trace, moment, snapshot.live))
        operators, categories = snapshot.breakdown, snapshot.categories
        pinned = snapshot.pinned_bytes
    failures = find_failures(trace, device=device, process=key)
    unused = None if device == "cpu" else _unused(trace, peaks["reserved"])
    pins: tuple[Pin, ...] = ()
    if (unused or 0) >= PINS_LEAST_BYTES:
        fragmentation = at_peak(trace, process, device)
        pins = fragmentation.pins[:PINS_SHOWN] if fragmentation is not None else ()
    return DeviceUse(
        device=device,
        name=process.device_names.get(device, ""),
        device_total_bytes=total_bytes(process, device),
        allocated=_extreme(trace, top),
        active=_extreme(trace, peaks["active"]) if device != "cpu" else None,
        reserved=_extreme(trace, peaks["reserved"]) if device != "cpu" else None,
        end_allocated_bytes=end.allocated_bytes if end else None,
        end_reserved_bytes=end.reserved_bytes if end and device != "cpu" else None,
        operators=operators,
        categories=categories,
        weights=max(weights, key=lambda w: w.weight_bytes + w.buffer_bytes, default=Weights()),
        pinned_bytes=pinned,
        external=external,
        unused_at_reserved_peak_bytes=unused,
        pins=pins,
        ooms=len(failures),
        last_oom=next(iter(describe(trace, failures[-1:])), None),
    )


def _extreme(trace: Trace, peak: Highest | None) -> Extreme | None:
    if peak is None:
        return None
    moment = moment_at_seq(trace, process=peak.process, device=peak.device, seq=peak.seq)
    return Extreme(peak.total_bytes, moment.time_ns, peak.seq)


def _unused(trace: Trace, reserved: Highest | None) -> int | None:
    if reserved is None:
        return None
    moment = moment_at_seq(
        trace, process=reserved.process, device=reserved.device, seq=reserved.seq
    )
    return max(reserved.total_bytes - (settled(trace, moment).active_bytes or 0), 0)
