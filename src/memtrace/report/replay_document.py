"""`memtrace replay --json`. Keys are stable, as those of report.as_json.

process, pid, rank, device; device_total_bytes, outside_bytes (null: not known);
conf: the settings given, null: the recording's own; changes: what if, and assumptions;
verified: segment events that were reproduced one for one, diverges_at: the place (as `seq`)
    where the recording was left, null: nowhere; both null: the requests were changed;
peaks: by measure low_bytes, high_bytes, place and recorded_bytes; completes;
runs: one when it is the verified recording, else with rising and falling addresses, each with
    peaks, last_bytes, segments, unused_bytes, largest_unused_bytes, retries, failed, passed,
    repeated_failures, as replay.engine.Run says; a failed one: request, place, size_bytes, and
    who asks: operator, top_operator, forward_operator, module, module_class, source;
caveats: where it is not exact; sweep, least_capacity: null unless asked for.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from memtrace.analyse.counters import MEASURES
from memtrace.replay.engine import Failed, Replay, Run, asked_by
from memtrace.replay.least_capacity import Least, LeastCapacity
from memtrace.replay.requests import Requests
from memtrace.replay.sweep import Sweep, Tried
from memtrace.report.replay import Answer


def replay_document(answer: Answer) -> dict[str, Any]:
    """The machine's form."""
    found = answer.replay
    process = found.requests.process
    verification = found.verification
    divergence = None if verification is None else verification.divergence
    known = found.device.outside_known
    return {
        "process": process.key,
        "pid": process.pid,
        "rank": process.rank,
        "device": found.requests.device,
        "device_total_bytes": found.device.total_bytes,
        "outside_bytes": found.device.outside_bytes if known else None,
        "conf": None if found.conf is None else found.conf.text,
        "changes": [
            {"what": change.what, "assumptions": list(change.assumptions)}
            for change in answer.changes
        ],
        "verified": None if verification is None else verification.compared,
        "diverges_at": None if divergence is None else divergence.place,
        "peaks": {of: _peak(found, of) for of in MEASURES},
        "completes": found.completes,
        "runs": [_run(found.requests, run) for run in found.runs],
        "caveats": [*(found.conf.notes if found.conf is not None else ()), *found.caveats],
        "sweep": None if answer.sweep is None else _sweep(answer.sweep),
        "least_capacity": None if answer.least is None else _least_capacity(answer.least),
        "lost_records": process.row["lost_total"] or 0,
    }


def _peak(found: Replay, of: str) -> dict[str, Any]:
    low, high = found.peak(of)
    return {
        "low_bytes": low.total_bytes,
        "high_bytes": high.total_bytes,
        "place": high.place,
        "recorded_bytes": found.recorded.get(of),
    }


def _run(requests: Requests, run: Run) -> dict[str, Any]:
    return {
        **asdict(run),
        "failed": [_failed(requests, one) for one in run.failed],
        "passed": [_failed(requests, one) for one in run.passed],
    }


def _failed(requests: Requests, failed: Failed) -> dict[str, Any]:
    asked = asked_by(requests, failed)
    names = ("operator", "top_operator", "forward_operator", "module", "module_class", "source")
    return {
        "request": failed.request,
        "place": failed.place,
        "size_bytes": failed.size_bytes,
        **{name: None if asked is None else getattr(asked, name) for name in names},
    }


def _sweep(found: Sweep) -> dict[str, Any]:
    best = found.best
    return {
        "own": _tried(found.requests, found.own),
        "tried": [_tried(found.requests, one) for one in found.tried],
        "best_conf": None if best is None or best.conf is None else best.conf.text,
        "saved_bytes": found.saved_bytes,
    }


def _tried(requests: Requests, one: Tried) -> dict[str, Any]:
    return {
        "conf": None if one.conf is None else one.conf.text,
        "completes": one.completes,
        "reserved_bytes": one.reserved_bytes,
        "retries": one.retries,
        "runs": [_run(requests, run) for run in one.runs],
    }


def _least_capacity(found: LeastCapacity) -> dict[str, Any]:
    def least(one: Least) -> dict[str, Any]:
        fails = None if one.fails is None else _failed(found.requests, one.fails)
        return {
            "total_bytes": one.total_bytes,
            "run": _run(found.requests, one.run),
            "fails": fails,
        }

    return {"outside_bytes": found.outside_bytes, "low": least(found.low),
            "high": least(found.high)}  # fmt: skip
