"""The machine's form of `memtrace fit`. Keys are stable: they are added to, never renamed.

Units are in the names, as in report.as_json; prices are those of an hour.

    trace, process, pid, rank, device, what_ifs (in words): what is judged;
    least_bytes, most_bytes: with less it does not complete, with so much it does; mapped_bytes: of
        that, weights in mapped files; error_percent: of the prediction; allocated_bytes, seq: the
        peak, and its event;
    context: low_bytes, high_bytes of the CUDA context and libraries, sampled or assumed;
    kv_cache: token_bytes (of one sequence), tensors, sequences, tokens, held_bytes at the peak;
    gpus: each a row of the catalogue with its prices, and usable_bytes, fits (yes, no, uncertain),
        headroom_bytes, stages (by name: the same three), largest_batch, context_tokens,
        relative_price (lowest, highest, to the cheapest that fits), notes;
    batches: recorded ones, error_percent with that of the batch, why_not; cheapest: a GPU's name;
    stages, categories, modules: what is held; assumptions.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from memtrace.analyse.breakdown import Breakdown
from memtrace.fit.catalogue import Gpu
from memtrace.fit.judge import Fit
from memtrace.fit.stage_needs import StageNeed


def fit_document(found: Fit) -> dict[str, Any]:
    """What it needs, and every GPU."""
    return {
        "trace": str(found.trace.path),
        "process": found.process.key,
        "pid": found.process.pid,
        "rank": found.process.rank,
        "device": found.device,
        "what_ifs": list(found.what),
        "least_bytes": found.least_bytes,
        "most_bytes": found.most_bytes,
        "mapped_bytes": found.mapped_bytes,
        "error_percent": found.band_permille / 10,
        "allocated_bytes": found.allocated_bytes,
        "seq": int(found.peak_place),
        "context": asdict(found.context),
        "kv_cache": None if found.kv_cache is None else {
            "token_bytes": found.kv_cache.token_bytes,
            "tensors": found.kv_cache.tensors,
            "sequences": found.kv_cache.sequences,
            "tokens": found.kv_cache.tokens,
            "held_bytes": found.kv_cache.held_bytes,
        },
        "gpus": [
            {
                **gpu_document(verdict.gpu),
                "usable_bytes": verdict.usable_bytes,
                "fits": verdict.fits,
                "headroom_bytes": verdict.headroom_bytes,
                "stages": verdict.stages,
                "largest_batch": verdict.largest_batch,
                "context_tokens": verdict.context_tokens,
                "relative_price": verdict.relative_price,
                "notes": list(verdict.notes),
            }
            for verdict in found.verdicts
        ],
        "batches": {
            "recorded": list(found.batches.recorded),
            "error_percent": found.batches.band_permille / 10,
            "why_not": found.batches.why_not,
        },
        "cheapest": found.cheapest.name if found.cheapest else None,
        "stages": [stage_document(stage) for stage in found.stages],
        "categories": _rows(found.categories),
        "modules": _rows(found.modules),
        "assumptions": list(found.assumptions),
        "lost_records": found.process.row["lost_total"] or 0,
    }  # fmt: skip


def stage_document(stage: StageNeed) -> dict[str, Any]:
    """A stage's peak, and the event that reached it."""
    return {
        "name": stage.name,
        "peak_bytes": stage.peak_bytes,
        "seq": int(stage.place),
        "is_peak": stage.is_peak,
    }


def gpu_document(gpu: Gpu) -> dict[str, Any]:
    """A row of the catalogue with its prices."""
    document = asdict(gpu)
    document["compute_capability"] = document.pop("capability")
    document["prices"] = [asdict(price) for price in gpu.prices]
    return {"gpu": document.pop("name"), **document}


def _rows(breakdown: Breakdown) -> list[dict[str, Any]]:
    return [
        {"kind": row.kind, "key": row.key, "bytes": row.total_bytes,
         "allocations": row.allocations, "share_percent": row.share_permille / 10}
        for row in breakdown.rows
    ]  # fmt: skip
