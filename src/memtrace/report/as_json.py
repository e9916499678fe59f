"""The machine's form of every answer. Keys are stable: they are added to, never renamed.

Units are in the names: `*_bytes` (and `bytes`), `*_ns` since the recording of that process began,
`share_percent`; all other numbers are counts, places in the order of events (`seq`) or ids. What is
not known is null. `process` is the KEY of the trace's files.

Of `peak` and `at`:
    process, pid, rank, device, of: what the answer is about;
    total_bytes: what was held of the measure; allocated_bytes, active_bytes, reserved_bytes: the
        device's totals then; pinned_bytes: of it pinned; external_bytes, external_resident_bytes:
        beside it, not through the allocator; external_unknown_bytes: of it, where it is not known
        what is resident; requested_bytes: asked for;
    seq, time_ns: the event; at_ns (`at`): the time asked for;
    by, groups: each with kind, key, bytes, requested_bytes, allocations, share_percent, mostly (as
        analyse.breakdown.Row says); unattributed_bytes, excess_bytes, live_allocations;
    categories: the same bytes (category, bytes), the largest first;
    stacks: frames by the keys of the groups, when grouped by stack;
    reached_by (`peak`): the allocation; peaks_by_process: everybody's own;
    lost_records: not 0 means that figures are bounds.
Of `summary`: the trace as a whole, then `processes`, each with what its row of the dataset
`processes` says, and `devices`: allocated, active and reserved (total_bytes, time_ns, seq of the
peak), what was held at the end, weights, external memory, and of the peak of allocated the largest
operators and the categories.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import IO, Any

from memtrace.analyse.breakdown import Breakdown
from memtrace.analyse.counters import BEFORE_FIRST
from memtrace.analyse.peak import Peak
from memtrace.analyse.snapshot import External, Snapshot
from memtrace.analyse.summary import DeviceUse, ProcessSummary, Summary
from memtrace.report.page import speaks_unicode
from memtrace.trace import Process


def write_json(document: dict[str, Any], stream: IO[str]) -> None:
    """One indented document and a newline, in letters that the stream has."""
    json.dump(document, stream, indent=2, ensure_ascii=not speaks_unicode(stream))
    stream.write("\n")


def peak_document(peak: Peak) -> dict[str, Any]:
    """The peak, exactly."""
    return {
        **_snapshot(peak.snapshot),
        "total_bytes": peak.total_bytes,
        "seq": peak.moment.seq,
        "time_ns": peak.moment.time_ns,
        "reached_by": None if peak.reached is None else asdict(peak.reached),
        "peaks_by_process": [
            {**_process(p), "total_bytes": h.total_bytes, "seq": h.seq} for p, h in peak.peaks
        ],
    }


def snapshot_document(snapshot: Snapshot, time_ns: int) -> dict[str, Any]:
    """What was live, exactly.

    `at_ns` is the instant asked for; `seq` and `time_ns` are those of the last event before it,
    null where there is none.
    """
    return {**_snapshot(snapshot), "at_ns": time_ns}


def summary_document(summary: Summary) -> dict[str, Any]:
    """The summary; every size in bytes."""
    return {
        "trace": summary.path,
        "empty": summary.empty,
        "events": summary.events,
        "allocations": summary.allocations,
        "lost_total": summary.lost_total,
        "root": summary.root,
        "main": summary.main,
        "running": list(summary.running),
        "processes": [_process_summary(process) for process in summary.processes],
    }


def _snapshot(snapshot: Snapshot) -> dict[str, Any]:
    moment = snapshot.moment
    return {
        **_process(snapshot.process),
        "device": snapshot.device,
        "of": snapshot.of,
        "total_bytes": snapshot.breakdown.total_bytes,
        "seq": None if moment.seq == BEFORE_FIRST else moment.seq,
        "time_ns": None if moment.seq == BEFORE_FIRST else moment.time_ns,
        "allocated_bytes": moment.allocated_bytes,
        "active_bytes": moment.active_bytes,
        "reserved_bytes": moment.reserved_bytes,
        "pinned_bytes": snapshot.pinned_bytes,
        **_external(snapshot.external),
        "lost_records": snapshot.process.row["lost_total"],
        **_breakdown(snapshot.breakdown),
        "categories": _categories(snapshot.categories),
        "stacks": {
            key: [asdict(frame) for frame in frames] for key, frames in snapshot.stacks.items()
        },
    }


def _categories(categories: Breakdown | None) -> list[dict[str, Any]]:
    rows = () if categories is None else categories.rows
    return [{"category": row.key, "bytes": row.total_bytes} for row in rows]


def _external(external: External) -> dict[str, Any]:
    return {
        "external_bytes": external.total_bytes,
        "external_resident_bytes": external.resident_bytes,
        "external_unknown_bytes": external.unknown_bytes,
    }


def _breakdown(held: Breakdown) -> dict[str, Any]:
    return {
        "by": held.by,
        "requested_bytes": held.requested_bytes,
        "live_allocations": held.allocations,
        "unattributed_bytes": held.unattributed_bytes,
        "excess_bytes": held.excess_bytes,
        "groups": [
            {
                "kind": row.kind,
                "key": row.key,
                "bytes": row.total_bytes,
                "requested_bytes": row.requested_bytes,
                "allocations": row.allocations,
                "share_percent": row.share_permille / 10,
                "mostly": row.mostly,
            }
            for row in held.rows
        ],
    }


def _process(process: Process) -> dict[str, Any]:
    return {"process": process.key, "pid": process.pid, "rank": process.rank}


def _process_summary(summary: ProcessSummary) -> dict[str, Any]:
    row = summary.process.row
    kept = (
        "host", "start_method", "parent", "parent_pid", "end_reason", "exit_status", "complete",
        "memtrace_version", "torch_version", "cuda_version", "python_version", "driver_version",
        "hook_error",
    )  # fmt: skip
    return {
        **_process(summary.process),
        **{name: row[name] for name in kept},
        "argv": summary.process.argv,
        "duration_ns": summary.duration_ns,
        "events": summary.events,
        "allocations": summary.allocations,
        "lost_events": summary.lost,
        "lost_total": summary.lost_total,
        "unmatched_frees": summary.unmatched_frees,
        "unrecorded_children": summary.unrecorded_children,
        "unscanned_models": summary.unscanned_models,
        "reconciled": row["reconciled"],
        "mismatch_bytes": row["mismatch_bytes"],
        "reconcile_note": row["reconcile_note"],
        "devices": [_device(use) for use in summary.devices],
    }


def _device(use: DeviceUse) -> dict[str, Any]:
    document = asdict(use)
    document |= document.pop("weights")
    del document["external"]
    document |= _external(use.external)
    document["categories"] = _categories(use.categories)
    document["operators"] = None if use.operators is None else _breakdown(use.operators)
    document["bf16_saving_estimate_bytes"] = use.bf16_saving_bytes
    return document
