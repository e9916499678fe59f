"""The one row of `processes` that a spool gives: who ran, how it ended, what was lost."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from memtrace.finalise.notes import Notes
from memtrace.finalise.spools import Spool, unrecorded_children
from memtrace.schema import ATTRIBUTION_VERSION, FORMAT_VERSION, SCHEMAS

# Of all that lost_events counts, what means that a record is missing from the trace...
_COUNTED_LOSSES = (
    "event_no_space",
    "record_no_space",
    "external_failed",
    "records_cut",
    "bad_records",
)
# ... and what shows that one must be missing: the same records once more, where they were counted.
_TRACES_OF_LOSS = ("lost_spans", "missed_frees")
_LOST_CHUNKS = ("bad_chunks", "missing_chunks")  # at least a record each


def process_table(spool: Spool, totals: dict[str, Any], rows: dict[str, int]) -> pa.Table:
    """The row as a table of `processes`; `rows` says how many each other dataset has."""
    row = {**_identity(spool.notes), **_recording(spool, totals), **_reconciliation(totals)}
    row["unrecorded_children"] = unrecorded_children(spool)
    row["dataset_rows"] = json.dumps(rows)
    row["dropped"] = totals.get("dropped")
    schema = SCHEMAS["processes"]
    return pa.Table.from_pylist([{name: row.get(name) for name in schema.names}], schema=schema)


def _identity(notes: Notes) -> dict[str, Any]:
    said = notes.get("versions")
    versions = Notes(said if isinstance(said, dict) else {})
    return {
        "host": notes.text("host"),
        "boot_id": notes.text("boot_id"),
        "parent_pid": notes.integer("parent_pid"),
        "parent": notes.text("parent"),
        "start_method": notes.text("start_method"),
        "rank": notes.integer("rank"),
        "local_rank": notes.integer("local_rank"),
        "world_size": notes.integer("world_size"),
        "argv": notes.json("argv"),
        "argv_withheld": notes.flag("argv_withheld"),
        **{
            f"{name}_version": versions.text(name)
            for name in ("memtrace", "torch", "cuda", "python", "driver")
        },
        "devices": notes.json("devices"),
        "cpu_kernels": notes.json("cpu_kernels"),
        "stack_min_bytes": notes.integer("stack_min_bytes"),
        **{
            name: notes.flag(name) for name in ("cpu_on", "operators_on", "stacks_on", "torch_seen")
        },
        **{name: notes.text(name) for name in ("hook_error", "exception")},
    }


def _recording(spool: Spool, totals: dict[str, Any]) -> dict[str, Any]:
    control, notes = spool.control, spool.notes
    complete = bool(control["complete"])
    lost = lost_events(spool, totals)
    exited = complete or control["exit_status"] is not None
    end_reason = notes.text("end_reason") or ("exit" if exited else "killed")
    return {
        "pid": _as_int64(control["pid"]),
        "format_version": FORMAT_VERSION,
        "attribution_version": ATTRIBUTION_VERSION,
        "clock_origin_ns": _as_int64(control["start_monotonic_ns"]),
        "clock_origin_unix_ns": _as_int64(control["start_unix_ns"]),
        "end_time_ns": end_time_ns(spool, totals),
        "end_unix_ns": _as_int64(control["end_unix_ns"]) if complete else None,
        "end_reason": end_reason,
        "exit_status": control["exit_status"],
        "complete": complete,
        "events": totals["events"],
        "lost_events": json.dumps(lost),
        "lost_total": _lost_total(lost),
        "unmatched_frees": totals["unmatched_frees"],
        "unscanned_models": totals["unscanned_models"],
        "paused_intervals": json.dumps(totals["paused"]),
        "paused_peaks": json.dumps(totals["paused_peaks"]),
        "allocator_settings": totals["settings"] or None,
        "spool_threads": totals["threads"],
    }


def end_time_ns(spool: Spool, totals: dict[str, Any]) -> int | None:
    """When the recording ended; of a killed process, the last thing that it recorded."""
    control = spool.control
    if not control["complete"]:
        return int(totals["last_time_ns"])
    return _as_int64(control["end_monotonic_ns"] - control["start_monotonic_ns"])


def _lost_total(lost: dict[str, int]) -> int:
    counted = sum(lost[kind] for kind in _COUNTED_LOSSES)
    shown = sum(lost[kind] for kind in _TRACES_OF_LOSS)
    chunks = sum(lost[kind] for kind in _LOST_CHUNKS)
    return min(max(counted, shown, chunks), (1 << 63) - 1)


def lost_events(spool: Spool, totals: dict[str, Any]) -> dict[str, int]:
    """What is missing, by kind, all of them, also when 0.

    The recorder's own counts, then what the spool lacks (cut or damaged), then what did not fit
    together when the events were put in order.
    """
    odd = totals["oddities"]
    kinds = ("order_gaps", "bad_records", "lost_spans", "missed_frees", "unmatched_names")
    return {
        **spool.control["lost"],
        **spool.reader.damage(),
        # Of what was read while the process ran, the packed chunks may have been given up since.
        **{kind: totals[kind] for kind in ("unknown_text_ids", "missing_chunks") if kind in totals},
        **{kind: odd[kind] for kind in kinds},
        "mirror_inconsistencies": odd["mirror_inconsistencies"],
    }


def _reconciliation(totals: dict[str, Any]) -> dict[str, Any]:
    if totals["compared"] == 0:
        return {"reconciled": None, "mismatch_bytes": None, "reconcile_note": None}
    agreed = totals["differing"] == 0
    return {
        "reconciled": agreed,
        "mismatch_bytes": totals["mismatch_bytes"],
        "reconcile_note": f"{totals['compared']} values compared"
        if agreed
        else totals["reconcile_note"],
    }


def _as_int64(value: int) -> int | None:
    return value if 0 <= value < 1 << 63 else None
