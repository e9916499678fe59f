"""`memtrace sweep`: the curve of each device, the line through it, and the largest that fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from memtrace.errors import readable
from memtrace.fit.sweep import Curve, Run, Use
from memtrace.report.page import BAD, TITLE, WARNING, Block, Column, Grid
from memtrace.report.page import Line as Told
from memtrace.report.units import exact, size

_ITEM = {"batch": "item", "sequence": "token"}
_NONE = "-"


def sweep_page(curves: Sequence[Curve], runs: Sequence[Run], folder: Path) -> list[Block]:
    """A table for each device, and what it comes to."""
    blocks: list[Block] = [Told(f"memtrace: {readable(str(folder))}", TITLE)]
    for curve in curves:
        blocks += [Told(""), Told(_title(curve), TITLE), _grid(curve)]
        blocks += [Told(f"  {text}") for text in curve_lines(curve)]
    if not curves:
        blocks.append(Told("  no run recorded any memory", WARNING))
    blocks += [
        Told(f"  {_values_text(run.values)}: {readable(run.failed)}", BAD)
        for run in runs
        if run.failed
    ]
    if unheard(runs):
        blocks.append(Told(f"  {unheard(runs)}", WARNING))
    return blocks


def curve_lines(curve: Curve) -> list[str]:
    """The line through the points, and the largest value that fits."""
    item = _ITEM[curve.dimension]
    line = curve.line
    if line is None:
        return ["fewer than two runs ended well: no line"]
    of = "allocated" if curve.device == "cpu" else "reserved"
    fixed, each = size(round(line.fixed_bytes)), size(round(line.each_bytes))
    words = f"{of} in calls: {fixed} + {each} per {item}"
    if line.squared_bytes:
        words += f" + {size(round(line.squared_bytes))} per {item} squared"
    off = f"off by {line.residual:.2%} at most over {line.points} runs"
    found = [f"{words}; {off if line.proven else 'as many runs as parts: nothing proves it'}"]
    if curve.capacity_bytes is None:
        found.append("the largest that fits: give the device's memory with --capacity 24GiB")
    elif curve.largest is None:
        found.append(f"the {curve.dimension} hardly matters: no limit was found")
    else:
        found.append(
            f"the largest {curve.dimension} that fits {exact(curve.capacity_bytes)}: "
            f"{curve.largest:,}"
        )
    return found


def unheard(runs: Sequence[Run]) -> str:
    """Says so where the program seems not to have been told; "" where it was."""
    asked = [run.values["batch"] for run in runs if "batch" in run.values and run.batch_sizes]
    heard = {run.batch_sizes for run in runs if run.batch_sizes}
    if len(set(asked)) < 2 or len(heard) != 1:
        return ""
    sizes = ", ".join(f"{size_:,}" for size_ in next(iter(heard)))
    return (
        f"every run called its models with batch {sizes}: put {{batch}} among the program's "
        "arguments, or have it read its environment (--env)"
    )


def sweep_document(curves: Sequence[Curve], runs: Sequence[Run], folder: Path) -> dict[str, Any]:
    """The machine's form. Keys are stable; sizes in bytes, null where not known."""
    return {
        "folder": str(folder),
        "runs": [
            {
                **run.values,
                "trace": None if run.trace_path is None else str(run.trace_path),
                "failed": run.failed or None,
                "out_of_memory": run.out_of_memory,
                "batch_sizes": list(run.batch_sizes),
                "devices": [asdict(use) for use in run.uses],
            }
            for run in runs
        ],
        "curves": [
            {
                "device": curve.device,
                "dimension": curve.dimension,
                "held": curve.held,
                "fit": None if curve.line is None else {
                    **asdict(curve.line), "proven": curve.line.proven
                },
                "capacity_bytes": curve.capacity_bytes,
                "largest": curve.largest,
            }
            for curve in curves
        ],
    }  # fmt: skip


def _title(curve: Curve) -> str:
    held = f", {_values_text(curve.held)}" if curve.held else ""
    return f"{curve.device} over {curve.dimension}{held}"


def _values_text(values: dict[str, int]) -> str:
    return ", ".join(f"{name} {value:,}" for name, value in values.items())


def _grid(curve: Curve) -> Grid:
    reserves = curve.device != "cpu"
    columns = (
        Column(curve.dimension.capitalize(), right=True),
        Column("Idle", right=True),
        Column("Peak", right=True),
        Column("Peak : idle", right=True),
        *([Column("Reserved", right=True)] if reserves else []),
        Column("The line says", right=True, spare=True),
        Column("Ended", wide=True),
    )
    rows = []
    for run in curve.runs:
        use, value = curve.use(run), run.values[curve.dimension]
        line = _NONE if curve.line is None else size(round(curve.line.at(value)))
        rows.append(
            (f"{value:,}", *_cells(use, reserves=reserves), line, readable(run.failed) or "well")
        )
    failed = [number for number, run in enumerate(curve.runs) if run.failed]
    last = len(columns) - 1
    return Grid(columns, tuple(rows), styles={(number, last): BAD for number in failed})


def _cells(use: Use | None, *, reserves: bool) -> tuple[str, ...]:
    if use is None:
        return (_NONE,) * (4 if reserves else 3)
    idle = use.idle_bytes
    ratio = f"{use.peak_bytes / idle:.2f}" if idle else _NONE
    cells = (_NONE if idle is None else size(idle), size(use.peak_bytes), ratio)
    if not reserves:
        return cells
    return (*cells, _NONE if use.reserved_bytes is None else size(use.reserved_bytes))
