"""The first answer: what ran, what it held at its peaks, and what to look at next."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from memtrace.analyse.breakdown import Breakdown, break_down
from memtrace.analyse.counters import (
    Highest,
    equals,
    highest,
    integers,
    last_moment,
    moment_at_seq,
    settled,
)
from memtrace.analyse.live_set import BYTES
from memtrace.analyse.snapshot import External, snapshot_at
from memtrace.analyse.target import check_device, why_empty
from memtrace.trace import Process, Trace

OPERATORS_SHOWN = 5


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
        weight_bytes, buffer_bytes: of the blocks live at the peak of allocated; `fp32_weight_bytes`
            of these weights are known to be float32.
        pinned_bytes: pinned host memory at the peak of allocated, which is part of it.
        unused_at_reserved_peak_bytes: reserved and held by no block at the peak of reserved.
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
    weight_bytes: int
    buffer_bytes: int
    fp32_weight_bytes: int
    pinned_bytes: int
    external: External
    unused_at_reserved_peak_bytes: int | None

    @property
    def bf16_saving_bytes(self) -> int:
        """What the float32 weights would not take as bfloat16: an estimate."""
        return self.fp32_weight_bytes // 2


@dataclass(frozen=True)
class ProcessSummary:
    """One process: what ran, what was lost, and each device that it used."""

    process: Process
    parent_pid: int | None
    duration_ns: int | None
    events: int
    allocations: int
    lost: dict[str, int]
    unmatched_frees: int
    unrecorded_children: int
    unscanned_models: int
    reconciled: str
    devices: tuple[DeviceUse, ...]


@dataclass(frozen=True)
class Summary:
    """The whole trace. `main`: the process whose peak is the largest, which a reader wants first.

    Attributes:
        empty: why there is not a single event; None when there is one.
        running: keys of processes that have not ended.
    """

    path: str
    empty: str | None
    processes: tuple[ProcessSummary, ...]
    running: tuple[str, ...]
    main: str | None

    @property
    def events(self) -> int:
        return sum(process.events for process in self.processes)

    @property
    def lost_total(self) -> int:
        return sum(sum(process.lost.values()) for process in self.processes)


def summarise(trace: Trace, *, device: str | None = None) -> Summary:
    """Reads footers, counters and the live sets at the peaks; never all rows.

    Args:
        device: only this one; every device when left out.
    """
    check_device(trace, device)
    processes = tuple(_process(trace, process, device) for process in trace.process_list)
    return Summary(
        path=str(trace.path),
        empty=None if trace.devices else why_empty(trace),
        processes=processes,
        running=trace.running,
        main=_main(processes),
    )


def _main(processes: tuple[ProcessSummary, ...]) -> str | None:
    def weight(summary: ProcessSummary) -> tuple[int, int]:
        held = [
            (u.device != "cpu", u.allocated.total_bytes) for u in summary.devices if u.allocated
        ]
        return max(((int(gpu), size) for gpu, size in held), default=(-1, 0))

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
        unmatched_frees=row["unmatched_frees"] or 0,
        unrecorded_children=row.get("unrecorded_children") or 0,
        unscanned_models=row.get("unscanned_models") or 0,
        reconciled=_reconciled(process, used),
        devices=tuple(_device(trace, process, device) for device in devices),
    )


def _lost(text: str | None) -> dict[str, int]:
    try:
        kinds = json.loads(text or "{}")
    except ValueError:
        return {}
    return {str(kind): int(count) for kind, count in kinds.items()}


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
    weights = buffers = fp32 = pinned = 0
    external = External()
    operators = None
    if top is not None:
        moment = moment_at_seq(trace, process=key, device=device, seq=top.seq)
        snapshot = snapshot_at(
            trace, moment, process, of="allocated", by="operator", top=OPERATORS_SHOWN
        )
        operators = snapshot.breakdown
        by_category = {row.key: row for row in break_down(snapshot.live, by="category").rows}
        weights = by_category["weight"].total_bytes if "weight" in by_category else 0
        buffers = by_category["buffer"].total_bytes if "buffer" in by_category else 0
        fp32 = _fp32_weight_bytes(trace, key, snapshot.live) if weights else 0
        pinned = snapshot.pinned_bytes
        external = snapshot.external
    total = [d.get("total_bytes") for d in process.listed("devices") if d.get("device") == device]
    return DeviceUse(
        device=device,
        name=process.device_names.get(device, ""),
        device_total_bytes=total[0] if total else None,
        allocated=_extreme(trace, top),
        active=_extreme(trace, peaks["active"]) if device != "cpu" else None,
        reserved=_extreme(trace, peaks["reserved"]) if device != "cpu" else None,
        end_allocated_bytes=end.allocated_bytes if end else None,
        end_reserved_bytes=end.reserved_bytes if end and device != "cpu" else None,
        operators=operators,
        weight_bytes=weights,
        buffer_bytes=buffers,
        fp32_weight_bytes=fp32,
        pinned_bytes=pinned,
        external=external,
        unused_at_reserved_peak_bytes=_unused(trace, peaks["reserved"])
        if device != "cpu"
        else None,
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


def _fp32_weight_bytes(trace: Trace, key: str, live: pa.Table) -> int:
    """Bytes of live weights whose tensors are float32, each allocation once."""
    weights = live.filter(pa.array(equals(live, "category", "weight")))
    ids: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
    for group in trace.datasets["names"].row_groups(key):
        names = group.read(["allocation_id", "kind", "dtype"])
        is_fp32 = equals(names, "dtype", "float32") | equals(names, "dtype", "torch.float32")
        ids.append(integers(names, "allocation_id", missing=-1)[is_fp32])
    if not ids:
        return 0
    fp32 = np.isin(integers(weights, "allocation_id"), np.concatenate(ids))
    return int(integers(weights, BYTES)[fp32].sum())
