"""`memtrace summary`: what ran, what it held, what to look at next."""

from __future__ import annotations

import shlex

from memtrace.analyse.summary import DeviceUse, Extreme, ProcessSummary, Summary
from memtrace.report.breakdown import breakdown_grid, external_text
from memtrace.report.page import FAINT, GOOD, TITLE, WARNING, Block, Column, Grid, Line
from memtrace.report.units import count, duration, exact, size

_PROCESSES_SHOWN = 12
_EXTERNAL = "not torch's"
_COMMAND_COLUMNS = 100
#: Savings below this are not worth a line.
_HINT_MIN_BYTES = 8 * 2**20


def summary_page(summary: Summary) -> list[Block]:
    """What ran, how it ended, each device of the main process, and all processes if several."""
    blocks: list[Block] = [Line(f"memtrace: {summary.path}", TITLE)]
    main = main_process(summary)
    if main is None:
        return [*blocks, Line(summary.empty or "no process was recorded", WARNING)]
    blocks += _what_ran(summary, main)
    if summary.empty:
        return [*blocks, Line(f"  {summary.empty}", WARNING)]
    for use in main.devices:
        blocks += [Line(""), *_device_blocks(use)]
    if len(summary.processes) > 1:
        blocks += [Line(""), *_process_blocks(summary)]
    hints = [hint for use in main.devices for hint in _hints(use)]
    if hints:
        blocks += [Line(""), *(Line(f"hint (estimate): {hint}") for hint in hints)]
    return [*blocks, *next_command(summary)]


def main_process(summary: Summary) -> ProcessSummary | None:
    return next((p for p in summary.processes if p.process.key == summary.main), None)


def _what_ran(summary: Summary, main: ProcessSummary) -> list[Line]:
    row = main.process.row
    command = "(arguments withheld)"
    if main.process.argv is not None:
        command = _cut(shlex.join(main.process.argv), _COMMAND_COLUMNS)
    ended = row["end_reason"] or "unknown"
    if row["exit_status"] is not None:
        ended += f", status {row['exit_status']}"
    lasted = "" if main.duration_ns is None else f" for {duration(main.duration_ns)}"
    versions = [
        f"{name} {row[f'{name.lower()}_version']}"
        for name in ("Python", "torch", "CUDA")
        if row[f"{name.lower()}_version"]
    ]
    lines = [
        Line(f"  ran      {command}"),
        Line(f"  process  {main.process.pid} on {row['host']}{lasted}; ended: {ended}"),
    ]
    if versions:
        lines.append(Line(f"  with     {', '.join(versions)}"))
    lines.append(
        Line(f"  holds    {count(main.events, 'event')}, {count(main.allocations, 'allocation')}")
    )
    lines += trouble_lines(summary, main)
    if row["torch_version"]:
        good = main.reconciled.startswith("yes")
        sentence = f"reconciles with torch: {main.reconciled}"
        if main.reconciled.startswith("differs"):
            sentence = f"reconciles with torch: no, {main.reconciled}"
        lines.append(
            Line(f"  {sentence}", GOOD if good else WARNING if "differs" in sentence else "")
        )
    return lines


def trouble_lines(summary: Summary, main: ProcessSummary) -> list[Line]:
    lines = []
    lost = ", ".join(f"{number:,} {kind}" for kind, number in main.lost.items() if number)
    if lost:
        lines.append(Line(f"  lost     {lost}: figures are bounds", WARNING))
    else:
        lines.append(Line("  lost     nothing"))
    others = summary.lost_total - sum(main.lost.values())
    if others:
        lines.append(Line(f"  lost     {others:,} records by other processes", WARNING))
    if main.unmatched_frees:
        lines.append(
            Line(f"  {count(main.unmatched_frees, 'free')} of memory from before recording", FAINT)
        )
    if main.unscanned_models:
        gone = count(main.unscanned_models, "model")
        lines.append(Line(f"  {gone} gone before a scan: weights of theirs have no names", FAINT))
    lines += [Line(f"  {reason}", WARNING) for reason in _not_recorded(summary)]
    missed = sum(process.unrecorded_children for process in summary.processes)
    if missed:
        lines.append(Line(f"  children that could not be recorded: {missed:,}", WARNING))
    if summary.running:
        lines.append(
            Line(f"  still running, not in this trace yet: {len(summary.running):,}", WARNING)
        )
    if main.process.row["complete"] is False:
        lines.append(
            Line("  the process did not end in order; all that it had recorded is here", WARNING)
        )
    return lines


def _not_recorded(summary: Summary) -> list[str]:
    """What the hooks could not record, each reason once."""
    reasons = [process.process.row.get("hook_error") for process in summary.processes]
    said = summary.empty or ""
    return list(dict.fromkeys(reason for reason in reasons if reason and reason not in said))


def _device_blocks(use: DeviceUse) -> list[Block]:
    total = f", {size(use.device_total_bytes)}" if use.device_total_bytes else ""
    title = f"{use.device}{f' ({use.name}{total})' if use.name else ''}"
    blocks: list[Block] = [Line(title, TITLE)]
    for label, peak in (
        ("peak allocated", use.allocated),
        ("peak active", use.active),
        ("peak reserved", use.reserved),
    ):
        if peak is not None:
            blocks.append(Line(f"  {label:<15}{_extreme(peak)}"))
    if use.end_allocated_bytes is not None:
        reserved = (
            f", reserved {size(use.end_reserved_bytes)}"
            if use.end_reserved_bytes is not None
            else ""
        )
        blocks.append(
            Line(f"  {'at the end':<15}allocated {size(use.end_allocated_bytes)}{reserved}")
        )
    if use.weight_bytes or use.buffer_bytes:
        buffers = f", buffers {size(use.buffer_bytes)}" if use.buffer_bytes else ""
        blocks.append(Line(f"  {'weights':<15}{exact(use.weight_bytes)}{buffers}"))
    if use.pinned_bytes:
        blocks.append(Line(f"  {'of it pinned':<15}{exact(use.pinned_bytes)} at the peak"))
    if use.external.total_bytes:
        blocks.append(Line(f"  {_EXTERNAL:<15}{external_text(use.external)}"))
    if use.operators is not None and use.operators.total_bytes:
        blocks.append(Line("  held at the peak of allocated:", FAINT))
        blocks.append(breakdown_grid(use.operators, {}, requested=False, indent=2))
    return blocks


def _extreme(peak: Extreme) -> str:
    return f"{exact(peak.total_bytes)} at {duration(peak.time_ns)}"


def _process_blocks(summary: Summary) -> list[Block]:
    shown = sorted(summary.processes, key=lambda p: p.process.key != summary.main)
    columns = (
        Column("Process", right=True),
        Column("Rank", right=True),
        Column("Parent", right=True),
        Column("Started by"),
        Column("Events", right=True),
        Column("Lost", right=True),
        Column("Peaks", wide=True),
    )
    rows = tuple(_process_cells(process) for process in shown[:_PROCESSES_SHOWN])
    blocks: list[Block] = [
        Line(f"{len(summary.processes):,} processes (--process PID shows one)", TITLE),
        Grid(columns, rows),
    ]
    if len(shown) > _PROCESSES_SHOWN:
        blocks.append(Line(f"and {len(shown) - _PROCESSES_SHOWN:,} more, in --json", FAINT))
    return blocks


def _process_cells(summary: ProcessSummary) -> tuple[str, ...]:
    peaks = [f"{u.device} {size(u.allocated.total_bytes)}" for u in summary.devices if u.allocated]
    rank, parent = summary.process.rank, summary.parent_pid
    return (
        str(summary.process.pid),
        "" if rank is None else str(rank),
        "" if parent is None else str(parent),
        summary.process.row["start_method"] or "",
        f"{summary.events:,}",
        f"{sum(summary.lost.values()):,}",
        ", ".join(peaks) or "nothing allocated",
    )


def _hints(use: DeviceUse) -> list[str]:
    hints = []
    if use.fp32_weight_bytes >= _HINT_MIN_BYTES:
        share = 100 * use.fp32_weight_bytes / use.weight_bytes
        hints.append(
            f"{share:.0f} % of the weights on {use.device} are float32: bfloat16 would save "
            f"about {size(use.bf16_saving_bytes)}"
        )
    if use.reserved and (use.unused_at_reserved_peak_bytes or 0) >= _HINT_MIN_BYTES:
        share = 100 * (use.unused_at_reserved_peak_bytes or 0) / use.reserved.total_bytes
        hints.append(
            f"{size(use.unused_at_reserved_peak_bytes or 0)} ({share:.0f} %) of {use.device} was "
            "reserved but unused at the peak of reserved"
        )
    return hints


def next_command(summary: Summary, *, gap: bool = True) -> list[Line]:
    """What to type next: it answers for the device and process with the largest peak."""
    command = f"python -m memtrace peak {shlex.quote(summary.path)} --by module"
    line = Line(f"{'' if gap else '  '}next: {command}", FAINT)
    return [Line(""), line] if gap else [line]


def _cut(text: str, columns: int) -> str:
    return text if len(text) <= columns else text[: columns - 1] + "…"
