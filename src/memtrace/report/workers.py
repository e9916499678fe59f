"""`memtrace fit --device cpu`: what a worker needs, how many fit, and what to tell Kubernetes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from memtrace.errors import readable
from memtrace.fit.workers import HEADROOM_PERMILLE, Density
from memtrace.report.fit import assumption_lines, stage_text
from memtrace.report.fit_json import stage_document
from memtrace.report.losses import lost_lines
from memtrace.report.page import BAD, GOOD, TITLE, Block, Column, Grid, Line
from memtrace.report.units import count, exact, percent, size

_MIB = 1 << 20


def workers_page(found: Density) -> list[Block]:
    """One worker, then every size of machine."""
    worker = found.worker
    what = f"if {', '.join(found.what)}" if found.what else "as recorded"
    band = f", ± {percent(found.band_permille)} of tensors" if found.band_permille else ""
    blocks: list[Block] = [
        Line(f"memtrace: {readable(str(found.trace.path))}: workers on a machine, {what}", TITLE),
        Line(f"  one worker ({found.process}): idle {size(worker.idle_bytes)}, peak "
             f"{exact(worker.peak_bytes)}{band}"),
        Line(f"  of the peak {size(worker.tensors_bytes)} are tensors; shared, counted once: "
             f"{exact(worker.shared_bytes)}"),
    ]  # fmt: skip
    if worker.pss_bytes is not None:
        text = f"  PSS, which divides what is shared: at most {size(worker.pss_bytes)} sampled"
        blocks.append(Line(text))
    if found.asked_workers is not None and found.asked_bytes is not None:
        blocks.append(
            Line(f"  {count(found.asked_workers, 'worker')}: {exact(found.asked_bytes)} at their "
                 "peak")
        )  # fmt: skip
    blocks += lost_lines(found.process)
    blocks += [Line(""), _instances_grid(found)]
    blocks += [Line(""), Line("Tensors, by stage:", TITLE), _stages_grid(found)]
    return [*blocks, Line(""), *assumption_lines(found.assumptions)]


def workers_document(found: Density) -> dict[str, Any]:
    """For machines: bytes are resident ones."""
    return {
        "trace": str(found.trace.path),
        "process": found.process.key,
        "pid": found.process.pid,
        "rank": found.process.rank,
        "what_ifs": list(found.what),
        "error_percent": found.band_permille / 10,
        "worker": asdict(found.worker),
        "asked_workers": found.asked_workers,
        "asked_bytes": found.asked_bytes,
        "instances": [{**asdict(i), "fits": _fits(found, i.workers)} for i in found.instances],
        "stages": [stage_document(stage) for stage in found.stages],
        "headroom_percent": HEADROOM_PERMILLE / 10,
        "kubernetes": kubernetes_resources(found),
        "assumptions": list(found.assumptions),
        "lost_records": found.process.row["lost_total"] or 0,
    }


def _fits(found: Density, workers: int) -> bool:
    return workers >= (found.asked_workers or 1)


def _instances_grid(found: Density) -> Grid:
    asked = found.asked_workers
    columns = (
        Column("Machine", right=True),
        Column("Usable", right=True),
        Column("Workers", right=True),
        Column("They need", right=True),
        *([Column(f"Fits {asked:,}")] if asked is not None else []),
    )
    rows = []
    for each in found.instances:
        fits = [] if asked is None else ["yes" if _fits(found, each.workers) else "no"]
        rows.append(
            (size(each.size_bytes), size(each.usable_bytes), f"{each.workers:,}",
             size(each.needed_bytes), *fits)
        )  # fmt: skip
    styles = {}
    if asked is not None:
        styles = {(i, 4): GOOD if row[4] == "yes" else BAD for i, row in enumerate(rows)}
    return Grid(columns, tuple(rows), indent=2, styles=styles)


def _stages_grid(found: Density) -> Grid:
    columns = (Column("Stage", wide=True), Column("Peak", right=True))
    return Grid(columns, tuple((stage_text(s), size(s.peak_bytes)) for s in found.stages), indent=2)


def kubernetes_resources(found: Density, *, gpus: int = 0) -> dict[str, dict[str, str | int]]:
    """What a container asks for: what its workers hold idle, and a limit above their peak."""
    workers = found.asked_workers or 1
    limit = found.worker.together(workers) * (1000 + HEADROOM_PERMILLE) // 1000
    request = min(found.worker.together(workers, idle=True), limit)
    resources: dict[str, dict[str, str | int]] = {
        "requests": {"memory": _mebibytes(request)},
        "limits": {"memory": _mebibytes(limit)},
    }
    if gpus:
        resources["limits"]["nvidia.com/gpu"] = gpus
    return resources


def kubernetes_yaml(found: Density, *, gpus: int = 0, why_gpu: str = "") -> str:
    """A snippet for a container; comments say what its figures are."""
    workers = found.asked_workers or 1
    what = f", if {', '.join(found.what)}" if found.what else ""
    lines = [
        f"# memtrace fit {readable(str(found.trace.path))}: {count(workers, 'worker')}{what}",
        "resources:",
    ]
    for kind, values in kubernetes_resources(found, gpus=gpus).items():
        lines.append(f"  {kind}:")
        for name, value in values.items():
            why = ""
            if name == "memory":
                why = "idle" if kind == "requests" else f"peak + {HEADROOM_PERMILLE / 10:g} %"
            else:
                why = why_gpu
            lines.append(f"    {name}: {value}{f'  # {why}' if why else ''}")
    return "\n".join(lines) + "\n"


def _mebibytes(size_bytes: int) -> str:
    return f"{-(-size_bytes // _MIB)}Mi"
