"""The answer, before all details: how much, when, whose, and what reached it."""

from __future__ import annotations

from typing import Any

import numpy as np

from memtrace.analyse.counters import moment_at_seq
from memtrace.analyse.failures import Oom, describe, find_failures
from memtrace.analyse.history import DeviceHistory
from memtrace.analyse.instants import PEAK
from memtrace.analyse.lifespans import TOLD
from memtrace.analyse.peak import Reached, reached_by
from memtrace.analyse.stage_list import step_at
from memtrace.analyse.target import total_bytes
from memtrace.report.oom import asked_by
from memtrace.report.units import size
from memtrace.trace import Process, Trace


def headline(
    trace: Trace,
    process: Process,
    device: DeviceHistory,
    sites: list[tuple[str | None, ...]],
) -> dict[str, Any]:
    """Of one device of one process."""
    peak = next(instant for instant in device.instants.chosen if instant.kind == PEAK)
    moment = moment_at_seq(trace, process=process.key, device=device.device, seq=peak.seq)
    step = step_at(trace, process, peak.seq)
    reached = reached_by(trace, moment)
    most = int(device.curve.most_bytes.max())
    return {
        "peak_bytes": most,
        "peak_ns": peak.time_ns,
        "seq": peak.seq,
        "device_total_bytes": total_bytes(process, device.device),
        "device_name": process.device_names.get(device.device, ""),
        "reserved_peak_bytes": int(device.curve.reserved_most_bytes.max()),
        "largest": _largest(device, sites, peak.seq),
        "step": None
        if step is None
        else {"number": step["step"], "name": step["name"], "root_module": step["root_module"]},
        "reached": None if reached is None else _reached(reached),
        "ooms": [_oom(oom) for oom in _ooms(trace, process, device)],
    }


def title(headlines: list[dict[str, Any]], devices: list[str], trace: Trace) -> str:
    """Of the window: "71.3 GiB peak on cuda:0 · serve"."""
    name = trace.path.resolve().name.removesuffix(".memtrace")
    if not headlines:
        return f"no memory recorded · {name}"
    return f"{size(headlines[0]['peak_bytes'])} peak on {devices[0]} · {name}"


def _largest(
    device: DeviceHistory, sites: list[tuple[str | None, ...]], seq: int
) -> dict[str, dict[str, Any] | None]:
    """By each column of TOLD, the value that held most of the peak."""
    spans = device.lifespans
    cut = int(np.searchsorted(spans.cuts.seq, seq))
    live = (spans.born <= cut) & (spans.died > cut)
    by_site = np.zeros(len(sites), np.int64)
    np.add.at(by_site, spans.site[live], spans.block_bytes[live])
    found: dict[str, dict[str, Any] | None] = {}
    for place, name in enumerate(TOLD):
        sums: dict[str, int] = {}
        for number in np.flatnonzero(by_site).tolist():
            word = sites[number][place]
            if word is not None:
                sums[word] = sums.get(word, 0) + int(by_site[number])
        most = max(sums, key=lambda word: (sums[word], word), default=None)
        found[name] = None if most is None else {"name": most, "bytes": sums[most]}
    return found


def _reached(reached: Reached) -> dict[str, Any]:
    return {
        "bytes": reached.block_bytes or reached.size_bytes,
        "operator": reached.operator,
        "forward_operator": reached.forward_operator,
        "module": reached.module,
        "source": reached.source,
        "category": reached.category,
        "label": reached.label,
        "allocation_id": reached.allocation_id,
    }


def _ooms(trace: Trace, process: Process, device: DeviceHistory) -> list[Oom]:
    failures = find_failures(trace, device=device.device, process=process.key)
    low, high = int(device.curve.begin_ns[0]), int(device.curve.last_ns[-1])
    shown = [failure for failure in failures if low <= failure.moment.time_ns <= high]
    return describe(trace, shown[-1:])


def _oom(oom: Oom) -> dict[str, Any]:
    return {
        "bytes": oom.asked_bytes,
        "ns": oom.time_ns,
        "seq": oom.moment.seq,
        "free_bytes": oom.device_free_bytes,
        "by": asked_by(oom),
        "went_on": oom.went_on,
    }
