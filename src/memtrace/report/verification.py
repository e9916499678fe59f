"""`memtrace fit --verify`: what was predicted, what really was, and where the two differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memtrace.errors import readable
from memtrace.fit.verify import Pair, Verification
from memtrace.report.fit import assumption_lines
from memtrace.report.losses import lost_lines
from memtrace.report.page import FAINT, GOOD, TITLE, WARNING, Block, Column, Grid, Line
from memtrace.report.units import count, percent, size


def verification_page(found: Verification, *, top: int) -> list[Block]:
    """Totals, then categories, then the operators that differ most."""
    what = f" if {', '.join(found.what)}" if found.what else ""
    total = found.totals[0]
    inside = abs(total.error_permille) <= found.band_permille
    expected = f"± {percent(found.band_permille)}" if found.band_permille else "exact"
    blocks: list[Block] = [
        Line(f"memtrace: {readable(str(found.trace.path))} ({found.device}){what}, beside "
             f"{readable(str(found.other.path))} ({found.other_device})", TITLE),
        Line(f"  peak of allocated off by {_signed(total.delta_bytes)} ({_permille(total)}); "
             f"expected {expected}", GOOD if inside else WARNING),
        *lost_lines(found.process),
        *lost_lines(found.other_process),
        Line(""),
        _grid("Peak", found.totals),
    ]  # fmt: skip
    for by, pairs in found.parts.items():
        shown = pairs[:top]
        blocks += [Line(""), _grid(by.replace("_", " ").capitalize(), shown)]
        if len(pairs) > len(shown):
            rest = count(len(pairs) - len(shown), "other")
            blocks.append(Line(f"  {rest}, each less far off", FAINT))
    if found.assumptions:
        blocks += [Line(""), *assumption_lines(found.assumptions)]
    return blocks


def verification_document(found: Verification) -> dict[str, Any]:
    """For machines; `delta_bytes` above zero: the prediction is too high."""
    return {
        "trace": str(found.trace.path),
        "process": found.process.key,
        "pid": found.process.pid,
        "rank": found.process.rank,
        "device": found.device,
        "other_trace": str(found.other.path),
        "other_process": found.other_process.key,
        "other_device": found.other_device,
        "what_ifs": list(found.what),
        "error_percent": found.band_permille / 10,
        "totals": [_document(pair) for pair in found.totals],
        **{by: [_document(pair) for pair in pairs] for by, pairs in found.parts.items()},
        "assumptions": list(found.assumptions),
        "lost_records": (found.process.row["lost_total"] or 0)
        + (found.other_process.row["lost_total"] or 0),
    }


def _document(pair: Pair) -> dict[str, Any]:
    return {
        "name": pair.name,
        "predicted_bytes": pair.predicted_bytes,
        "real_bytes": pair.real_bytes,
        "delta_bytes": pair.delta_bytes,
        "delta_percent": round(pair.error_permille / 10, 3) if pair.real_bytes else None,
    }


def _grid(title: str, pairs: Sequence[Pair]) -> Grid:
    columns = (
        Column(title, wide=True),
        Column("Predicted", right=True),
        Column("Real", right=True),
        Column("Off by", right=True),
        Column("", right=True),
    )
    rows = tuple(
        (pair.name, size(pair.predicted_bytes), size(pair.real_bytes), _signed(pair.delta_bytes),
         _permille(pair))
        for pair in pairs
    )  # fmt: skip
    return Grid(columns, rows, indent=2)


def _permille(pair: Pair) -> str:
    return f"{pair.error_permille / 10:+.1f} %" if pair.real_bytes else ""


def _signed(value: int) -> str:
    return f"+{size(value)}" if value > 0 else size(value)
