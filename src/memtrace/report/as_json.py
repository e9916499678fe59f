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
    reached_by (`peak`): the allocation (its `step`: in words); peaks_by_process: everybody's own.
Of `stages`:
    process, pid, rank; others: keys of the other processes on the same devices;
    devices: device, device_name, idle_bytes, idle_is_stage, left_out, batches (batch_size, steps,
        peak_bytes), and stages: name, kind, stage_id, count, start_time_ns, end_time_ns, largest
        (by metric), peak_step, and `peak` and `end`, each with seq, time_ns and lines: name, kind,
        bytes, why, off_ns. From the top, each "total" is the total above it plus the parts and gaps
        between them (analyse.ledger_lines; report.stages has the names in words).
Of `summary`: the trace as a whole, then `processes`, each with what its row of the dataset
`processes` says, and `devices`: allocated, active and reserved (total_bytes, time_ns, seq of the
peak), what was held at the end, weights, external memory, the largest operators and the
categories at the peak of allocated, how many allocations failed (ooms, last_oom) and who pins
unused memory at the peak of reserved (pins).
Of `leaks`: steps, steps_are: how many, of what; enough_steps: false, where they are too few;
    devices: each with before_bytes and kept_bytes (live where the last step begins, from before the
    first one and from the steps), bytes_per_step, steps_until_full, device_total_bytes;
    sites: each an owner with kind, kept_bytes, kept_blocks, early_bytes, and growth (as
        analyse.leaks.Site and Growth say); per_step: as analyse.leaks.StepLeft says.
Of `fragmentation`: reserved_bytes - allocated_bytes = waiting_bytes + free_bytes; empty_bytes and
    pinned_bytes: the free bytes in segments (or pages) without and with a block;
    largest_free_bytes; segments; mismatch_bytes: to the device's totals; why: the instant;
    parts: the same by kind of memory; pins: owners, as analyse.fragmentation.Pin says.
Of `oom`: ooms: every failed request; post_mortem: one of them, also with number, needed_bytes,
    short_bytes, limit_bytes, device_total_bytes, outside_bytes, neighbours (other processes of the
    trace), unusable_bytes and unusable (by reason), largest_usable_bytes, fits, held (with groups,
    as `peak` has), categories, fragmentation, as analyse.oom says.
Of `tree`: what: live, allocated or temporary, within: how soon it was freed; tree: kind, name,
    bytes, blocks and children, each such a tree, as analyse.memory_tree.Node says.
Of `diff`: devices: in both traces, each with peak, stage_ends and steps (bytes per step of a kind):
    a_bytes, b_bytes, delta_bytes, a_steps, b_steps, a_time_ns, b_time_ns, and changes by grouping:
    kind, key, was (its name in A, where it is another), status (new, gone, grown, shrunk, same),
    a_bytes, b_bytes, delta_bytes, a_blocks, b_blocks; devices_only_a, devices_only_b.
An owner: key (null: the rows without one), and what most of its bytes are: category, operator,
module, source. Each of the last three also has `stacks`, as `peak` has.
lost_records, of all but `summary`: where it is not 0, figures are bounds.
dropped_allocations, only where `run --max-disk` left some out: how many; sums over time (`tree` of
what is not live, the steps of `diff`) lack them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from memtrace.analyse.breakdown import Breakdown
from memtrace.analyse.counters import BEFORE_FIRST
from memtrace.analyse.diff import Amount, Change, Comparison, DeviceDiff, Diff
from memtrace.analyse.failures import Oom
from memtrace.analyse.fragmentation import Fragmentation, Part, Pin
from memtrace.analyse.leaks import DeviceLeaks, Leaks
from memtrace.analyse.ledger import DeviceLedger, Instant, Ledger, StageLedger
from memtrace.analyse.memory_tree import MemoryTree
from memtrace.analyse.oom import PostMortem
from memtrace.analyse.owners import TOLD, Owner
from memtrace.analyse.peak import Peak
from memtrace.analyse.snapshot import External, Snapshot
from memtrace.analyse.stack import Frame
from memtrace.analyse.summary import DeviceUse, ProcessSummary, Summary
from memtrace.analyse.tree_nodes import Node
from memtrace.report.page import write_json as write_json
from memtrace.trace import Process


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


def ledger_document(ledger: Ledger) -> dict[str, Any]:
    """The stages of one process; every size in bytes."""
    return {
        **_process(ledger.process),
        **_lost(ledger.process),
        "others": [process.key for process in ledger.others],
        "devices": [_device_ledger(device) for device in ledger.devices],
    }


def _device_ledger(device: DeviceLedger) -> dict[str, Any]:
    return {
        "device": device.device,
        "device_name": device.device_name,
        "idle_bytes": device.idle_bytes,
        "idle_is_stage": device.idle_is_stage,
        "left_out": device.left_out,
        "batches": [asdict(batch) for batch in device.batches],
        "stages": [_stage(ledger) for ledger in device.stages],
    }


def _stage(ledger: StageLedger) -> dict[str, Any]:
    stage = ledger.stage
    return {
        "name": stage.name,
        "kind": stage.kind,
        "stage_id": stage.stage_id,
        "count": ledger.count,
        "start_time_ns": stage.start_time_ns,
        "end_time_ns": stage.end_time_ns,
        "largest": ledger.largest,
        "peak_step": ledger.peak_step,
        "peak": _instant(ledger.peak),
        "end": _instant(ledger.end),
    }


def _instant(instant: Instant) -> dict[str, Any]:
    return {
        "seq": instant.seq,
        "time_ns": instant.time_ns,
        "lines": [
            {
                "name": line.name,
                "kind": line.kind,
                "bytes": line.size_bytes,
                "why": line.why,
                "off_ns": line.off_ns,
            }
            for line in instant.lines
        ],
    }


def tree_document(tree: MemoryTree) -> dict[str, Any]:
    """The tree, exactly and whole."""
    moment = tree.moment
    known = moment is not None and moment.seq != BEFORE_FIRST
    return {
        **_process(tree.process),
        "device": tree.device,
        "what": tree.what,
        "of": tree.of,
        "by": list(tree.by),
        "at_ns": tree.time_ns,
        "stage": tree.stage,
        "within": None if tree.within is None else str(tree.within),
        "seq": moment.seq if moment is not None and known else None,
        "time_ns": moment.time_ns if moment is not None and known else None,
        "total_bytes": tree.total_bytes,
        "blocks": tree.root.blocks,
        "excess_bytes": tree.excess_bytes,
        **_lost(tree.process),
        "tree": _tree_node(tree.root),
    }


def _tree_node(node: Node) -> dict[str, Any]:
    return {
        "kind": node.kind,
        "name": node.name,
        "bytes": node.total_bytes,
        "blocks": node.blocks,
        "children": [_tree_node(child) for child in node.children],
    }


def diff_document(diff: Diff) -> dict[str, Any]:
    """Two traces compared: every owner in every grouping."""
    return {
        "a": str(diff.a.path),
        "b": str(diff.b.path),
        "of": diff.of,
        "by": list(diff.by),
        "devices": [_device_diff(device, diff.by) for device in diff.devices],
        "devices_only_a": [asdict(missing) for missing in diff.only_a],
        "devices_only_b": [asdict(missing) for missing in diff.only_b],
    }


def _device_diff(device: DeviceDiff, by: Sequence[str]) -> dict[str, Any]:
    return {
        "device": device.device,
        "a": {**_process(device.a), **_lost(device.a)},
        "b": {**_process(device.b), **_lost(device.b)},
        "peak": _comparison(device.peak, by),
        "stage_ends": [_comparison(end, by) for end in device.stage_ends],
        "steps": [_comparison(step, by) for step in device.steps],
        "stages_left_out": device.stages_left_out,
        "only_a": list(device.only_a),
        "only_b": list(device.only_b),
    }


def _comparison(found: Comparison, by: Sequence[str]) -> dict[str, Any]:
    kept = ("what", "name", "a_time_ns", "b_time_ns", "a_steps", "b_steps")
    return {
        **{name: getattr(found, name) for name in kept},
        "a_bytes": _amount(found.a_bytes),
        "b_bytes": _amount(found.b_bytes),
        "delta_bytes": _amount(found.delta_bytes),
        "changes": {name: [_change(each) for each in found.changes[name]] for name in by},
    }


def _change(change: Change) -> dict[str, Any]:
    amounts = ("a_bytes", "b_bytes", "delta_bytes", "a_blocks", "b_blocks")
    return {
        "kind": change.kind,
        "key": change.key,
        "was": change.was,
        "status": change.status,
        **{name: _amount(getattr(change, name)) for name in amounts},
    }


def _amount(amount: Amount) -> int | float:
    """A mean is whole where it can be."""
    return int(amount) if amount == int(amount) else float(amount)


def leaks_document(leaks: Leaks) -> dict[str, Any]:
    """What the steps leave behind; every group and every step."""
    return {
        **_process(leaks.process),
        **_lost(leaks.process),
        "by": leaks.by,
        "steps": len(leaks.steps),
        "steps_are": leaks.steps.what,
        "enough_steps": leaks.enough_steps,
        "devices": [_device_leaks(device) for device in leaks.devices],
        "stacks": _stacks(leaks.stacks),
    }


def _device_leaks(device: DeviceLeaks) -> dict[str, Any]:
    return {
        "device": device.device,
        "device_total_bytes": device.total_bytes,
        "before_bytes": device.before_bytes,
        "kept_bytes": device.kept_bytes,
        "bytes_per_step": device.bytes_per_step,
        "steps_until_full": device.steps_until_full,
        "sites": [
            {
                **_owner(site.owner),
                "kind": site.kind,
                "kept_bytes": site.kept_bytes,
                "kept_blocks": site.kept_blocks,
                "early_bytes": site.early_bytes,
                "growth": None if site.growth is None else asdict(site.growth),
            }
            for site in device.sites
        ],
        "per_step": [asdict(step) for step in device.steps],
    }


def _owner(owner: Owner) -> dict[str, Any]:
    return {"key": owner.key, **{name: getattr(owner, name) for name in TOLD}}


def fragmentation_document(found: Fragmentation) -> dict[str, Any]:
    """What is reserved and not used, exactly."""
    kept = (
        "device", "why", "by", "reserved_bytes", "allocated_bytes", "waiting_bytes", "free_bytes",
        "empty_bytes", "pinned_bytes", "largest_free_bytes", "segments", "mismatch_bytes",
    )  # fmt: skip
    return {
        **_process(found.process),
        **_lost(found.process),
        "seq": found.moment.seq,
        "time_ns": found.moment.time_ns,
        **{name: getattr(found, name) for name in kept},
        "parts": [_part(part) for part in found.parts],
        "pins": [_pin(pin) for pin in found.pins],
        "stacks": _stacks(found.stacks),
    }


def _part(part: Part) -> dict[str, Any]:
    document = asdict(part)
    return {**document.pop("kind"), **document}


def _pin(pin: Pin) -> dict[str, Any]:
    document = asdict(pin)
    del document["owner"]
    return {**_owner(pin.owner), **document}


def oom_document(found: PostMortem | None, listed: Sequence[Oom]) -> dict[str, Any]:
    """Every failed allocation, and one of them in full (null where none failed)."""
    document: dict[str, Any] = {"ooms": [_oom(oom) for oom in listed], "post_mortem": None}
    if found is None:
        return document
    kept = (
        "number", "needed_bytes", "short_bytes", "limit_bytes", "outside_bytes", "unusable_bytes",
        "largest_usable_bytes",
    )  # fmt: skip
    frozen = found.fragmentation
    document["post_mortem"] = {
        **_oom(found.oom),
        **_lost(found.oom.process),
        **{name: getattr(found, name) for name in kept},
        "device_total_bytes": found.total_bytes,
        "neighbours": [
            {**_process(process), "reserved_bytes": total} for process, total in found.neighbours
        ],
        "unusable": {f"{reason}_bytes": total for reason, total in found.unusable.items()},
        "fits": [asdict(fit) for fit in found.fits],
        "held": _breakdown(found.held),
        "categories": _categories(found.categories),
        "stacks": _stacks(found.stacks),
        "fragmentation": None if frozen is None else fragmentation_document(frozen),
    }
    return document


def _oom(oom: Oom) -> dict[str, Any]:
    kept = (
        "device", "time_ns", "asked_bytes", "device_free_bytes", "stream", "pool", "operator",
        "top_operator", "forward_operator", "module", "module_class", "source", "went_on",
        "allocated_bytes",
    )  # fmt: skip
    return {
        **_process(oom.process),
        "seq": oom.moment.seq,
        **{name: getattr(oom, name) for name in kept},
        "active_bytes": oom.moment.active_bytes,
        "reserved_bytes": oom.moment.reserved_bytes,
        "stack": [asdict(frame) for frame in oom.stack],
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
        **_lost(snapshot.process),
        **_breakdown(snapshot.breakdown),
        "categories": _categories(snapshot.categories),
        "stacks": _stacks(snapshot.stacks),
    }


def _stacks(stacks: dict[str, tuple[Frame, ...]]) -> dict[str, Any]:
    return {key: [asdict(frame) for frame in frames] for key, frames in stacks.items()}


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


def _lost(process: Process) -> dict[str, Any]:
    return {"lost_records": process.row["lost_total"], **_dropped(process)}


def _dropped(process: Process) -> dict[str, Any]:
    dropped = process.dropped
    return {} if dropped is None else {"dropped_allocations": dropped.allocations}


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
        **_dropped(summary.process),
        "unmatched_frees": summary.unmatched_frees,
        "unrecorded_children": summary.unrecorded_children,
        "unscanned_models": summary.unscanned_models,
        "paused_intervals_ns": summary.process.paused_intervals,
        "paused_peak_bytes": summary.process.paused_peaks,
        "reconciled": row["reconciled"],
        "mismatch_bytes": row["mismatch_bytes"],
        "reconcile_note": row["reconcile_note"],
        "rss_peak_bytes": summary.rss_peak.total_bytes if summary.rss_peak else None,
        "rss_peak_ns": summary.rss_peak.time_ns if summary.rss_peak else None,
        "devices": [_device(use) for use in summary.devices],
    }


def _device(use: DeviceUse) -> dict[str, Any]:
    document = asdict(replace(use, last_oom=None))
    document["pins"] = [_pin(pin) for pin in use.pins]
    document["last_oom"] = None if use.last_oom is None else _oom(use.last_oom)
    document |= document.pop("weights")
    del document["external"]
    document |= _external(use.external)
    document["categories"] = _categories(use.categories)
    document["operators"] = None if use.operators is None else _breakdown(use.operators)
    document["bf16_saving_estimate_bytes"] = use.bf16_saving_bytes
    return document
