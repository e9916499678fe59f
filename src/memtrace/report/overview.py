"""The shortest answer, as a notebook shows it below a cell and a Trace shows itself."""

from __future__ import annotations

from collections.abc import Iterator

from memtrace.analyse.breakdown import GROUP, OTHER, Breakdown
from memtrace.analyse.overview import DevicePeak, Overview
from memtrace.report.breakdown import external_text
from memtrace.report.losses import troubles
from memtrace.report.page import FAINT, TITLE, WARNING, Block, Column, Grid, Line
from memtrace.report.summary import main_process, oom_lines, shown_processes
from memtrace.report.units import count, duration, percent, size

_BY = {"source": "line"}


def overview_page(overview: Overview) -> list[Block]:
    """Each device's peak, who held it, and what is missing from the trace."""
    summary = overview.summary
    processes = len(summary.processes)
    of = f" of {processes:,} processes" if processes > 1 else ""
    blocks: list[Block] = [Line(f"{summary.path}: {count(summary.events, 'event')}{of}", TITLE)]
    main = main_process(summary)
    if main is None or summary.empty:
        return [*blocks, Line(summary.empty or "no process was recorded", WARNING)]
    missing = troubles(summary, shown_processes(summary))
    if not overview.devices:
        return [*blocks, Line("nothing was allocated", WARNING), *missing]
    blocks.append(_peaks(overview))
    if processes > 1:
        blocks.append(Line(f"of {main.process}, whose peak is the largest", FAINT))
    for use in main.devices:
        blocks += oom_lines(use)
        if use.external.total_bytes:
            beside = f"{use.device}, not torch's: {external_text(use.external)}"
            blocks.append(Line(beside, FAINT))
    blocks += [_owners(device) for device in overview.devices]
    return [*blocks, *missing]


def _peaks(overview: Overview) -> Grid:
    main = main_process(overview.summary)
    ends = {use.device: use.end_allocated_bytes for use in main.devices} if main else {}
    reserves = any(device.reserved_bytes is not None for device in overview.devices)
    columns = (
        Column("Device"),
        Column("Peak", right=True),
        Column("Bytes", right=True),
        Column("At", right=True),
        *([Column("Reserved", right=True)] if reserves else []),
        Column("Left at the end", right=True),
    )
    return Grid(columns, tuple(_peak_cells(device, ends, reserves) for device in overview.devices))


def _peak_cells(device: DevicePeak, ends: dict[str, int | None], reserves: bool) -> tuple[str, ...]:
    peak = device.peak
    end, reserved = ends.get(peak.device), device.reserved_bytes
    return (
        peak.device,
        size(peak.total_bytes),
        f"{peak.total_bytes:,}",
        duration(peak.time_ns),
        *(["" if reserved is None else size(reserved)] if reserves else []),
        "" if end is None else size(end),
    )


def _owners(device: DevicePeak) -> Grid:
    columns = (
        Column(f"Peak of {device.peak.device}"),
        Column("Held by", wide=True),
        Column("Size", right=True),
        Column("Share", right=True),
        Column("", bar=True),
        Column("Blocks", right=True),
    )
    rows = [row for owners in device.owners for row in _owner_rows(owners)]
    faint = frozenset(place for place, (kind, _) in enumerate(rows) if kind != GROUP)
    return Grid(columns, tuple(cells for _, cells in rows), faint)


def _owner_rows(owners: Breakdown) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each row's kind, and its cells."""
    by = f"by {_BY.get(owners.by, owners.by)}"
    for place, row in enumerate(owners.rows):
        cells = (
            "" if place else by,
            row.key if row.kind in (GROUP, OTHER) else f"({row.key})",
            size(row.total_bytes),
            percent(row.share_permille),
            str(row.share_permille),
            f"{row.allocations:,}" if row.allocations else "",
        )
        yield row.kind, cells
