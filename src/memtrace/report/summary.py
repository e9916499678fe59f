"""`memtrace summary`: what ran, what it held, what to look at next."""

from __future__ import annotations

import shlex

from memtrace.analyse.summary import DeviceUse, Extreme, ProcessSummary, Summary
from memtrace.report.breakdown import breakdown_grid, categories_text, external_text, resident_text
from memtrace.report.fragmentation import pin_text
from memtrace.report.losses import trouble_lines
from memtrace.report.oom import asked_text, held_text
from memtrace.report.page import FAINT, GOOD, TITLE, WARNING, Block, Column, Grid, Line
from memtrace.report.units import count, duration, exact, size

_PROCESSES_SHOWN = 12
_EXTERNAL = "not torch's"
#: Of an imported trace: what its file is, by end_reason.
_FILES = {
    "snapshot": "torch's memory snapshot ",
    "profile": "the Chrome trace ",
    "mprof": "memory_profiler's ",
}
_COMMAND_COLUMNS = 100
#: Savings below this are not worth a line.
_HINT_MIN_BYTES = 8 * 2**20


def summary_page(summary: Summary) -> list[Block]:
    """What ran, how it ended, each device of the main process, and all processes if several."""
    blocks: list[Block] = [Line(f"memtrace: {summary.path}", TITLE)]
    root, main = root_process(summary), main_process(summary)
    if root is None or main is None:
        return [*blocks, Line(summary.empty or "no process was recorded", WARNING)]
    blocks += _what_ran(summary, root, main)
    if summary.empty:
        blocks.append(Line(f"  {summary.empty}", WARNING))
        return [*blocks, *_sampled_blocks(summary)]
    owner = f" of {main.process}" if len(summary.processes) > 1 else ""
    for use in main.devices:
        blocks += [Line(""), *_device_blocks(use, owner)]
    if len(summary.processes) > 1:
        blocks += [Line(""), *_process_blocks(summary)]
    hints = [hint for use in main.devices for hint in _hints(use)]
    if hints:
        blocks += [Line(""), *(Line(f"hint (estimate): {hint}") for hint in hints)]
    return [*blocks, *next_command(summary)]


def _sampled_blocks(summary: Summary) -> list[Block]:
    """All that is known of processes without events: their RSS."""
    sampled = [(p, p.rss_peak) for p in summary.processes if p.rss_peak is not None]
    sampled.sort(key=lambda item: -item[1].total_bytes)
    lines = [
        Line(f"  {p.process}: largest RSS {exact(rss.total_bytes)} at {duration(rss.time_ns)}")
        for p, rss in sampled[:_PROCESSES_SHOWN]
    ]
    if len(sampled) > len(lines):
        lines.append(Line(f"  and {len(sampled) - len(lines):,} more, in --json", FAINT))
    if not lines:
        return []
    follow = Line(f"next: python -m memtrace stages {summary.path}", FAINT)
    return [Line(""), Line("sampled", TITLE), *lines, Line(""), follow]


def main_process(summary: Summary) -> ProcessSummary | None:
    """The process whose devices are shown."""
    return next((p for p in summary.processes if p.process.key == summary.main), None)


def root_process(summary: Summary) -> ProcessSummary | None:
    """The program itself."""
    return next((p for p in summary.processes if p.process.key == summary.root), None)


def shown_processes(summary: Summary) -> tuple[ProcessSummary, ...]:
    """The program and, if that is another, the process whose devices are shown."""
    return tuple(p for p in summary.processes if p.process.key in (summary.root, summary.main))


def _what_ran(summary: Summary, root: ProcessSummary, main: ProcessSummary) -> list[Line]:
    row = root.process.row
    command = "(arguments withheld)"
    if root.process.argv is not None:
        command = _cut(shlex.join(root.process.argv), _COMMAND_COLUMNS)
    lasted = "" if root.duration_ns is None else f" for {duration(root.duration_ns)}"
    versions = [
        f"{name} {version}"
        for name in ("Python", "torch", "CUDA")
        if (version := _version(summary, root, f"{name.lower()}_version"))
    ]
    of = "" if len(summary.processes) == 1 else f" of {len(summary.processes):,} processes"
    held = f"{count(summary.events, 'event')}, {count(summary.allocations, 'allocation')}"
    lines = [
        Line(f"  ran      {command}"),
        Line(f"  process  {root.process.pid} on {row['host']}{lasted}; ended: {_ended(root)}"),
    ]
    if row["start_method"] == "imported":
        file = f"{_FILES.get(row['end_reason'], '')}{command}"
        holds = "samples" if summary.empty else "events"
        lines = [Line(f"  of       {file}, its {holds}{lasted}")]
    if versions:
        lines.append(Line(f"  with     {', '.join(versions)}"))
    lines.append(Line(f"  holds    {held}{of}"))
    lines += trouble_lines(summary, shown_processes(summary))
    if main.process.row["torch_version"] or main.process.row["reconciled"] is not None:
        lines.append(_reconciled(summary, main))
    return lines


def _ended(process: ProcessSummary) -> str:
    row = process.process.row
    ended = row["end_reason"] or "unknown"
    return ended if row["exit_status"] is None else f"{ended}, status {row['exit_status']}"


def _version(summary: Summary, root: ProcessSummary, column: str) -> str | None:
    """The program's own; where it does not use torch, that of a process that does."""
    rows = [root.process.row, *(process.process.row for process in summary.processes)]
    return next((row[column] for row in rows if row[column]), None)


def _reconciled(summary: Summary, main: ProcessSummary) -> Line:
    differing = [p for p in summary.processes if p.reconciled.startswith("differs")]
    told = main if main in differing or not differing else differing[0]
    if differing:
        of = f" ({told.process})" if len(summary.processes) > 1 else ""
        return Line(f"  reconciles with torch: no, {told.reconciled}{of}", WARNING)
    good = told.reconciled.startswith("yes")
    return Line(f"  reconciles with torch: {told.reconciled}", GOOD if good else "")


def _device_blocks(use: DeviceUse, owner: str) -> list[Block]:
    total = f", {size(use.device_total_bytes)}" if use.device_total_bytes else ""
    title = f"{use.device}{f' ({use.name}{total})' if use.name else ''}{owner}"
    blocks: list[Block] = [Line(title, TITLE)]
    for label, peak in (
        ("peak allocated", use.allocated),
        ("peak active", use.active),
        ("peak reserved", use.reserved),
    ):
        if peak is not None:
            blocks.append(Line(f"  {label:<15}{_extreme(peak)}"))
        if use.pinned_bytes and peak is use.allocated:
            blocks.append(Line(f"  {'of it pinned':<15}{exact(use.pinned_bytes)} at the peak"))
    if use.end_allocated_bytes is not None:
        reserved = (
            f", reserved {size(use.end_reserved_bytes)}"
            if use.end_reserved_bytes is not None
            else ""
        )
        blocks.append(
            Line(f"  {'at the end':<15}allocated {size(use.end_allocated_bytes)}{reserved}")
        )
    weights = use.weights
    if weights.weight_bytes or weights.buffer_bytes:
        buffers = f", buffers {size(weights.buffer_bytes)}" if weights.buffer_bytes else ""
        blocks.append(Line(f"  {'weights':<15}{exact(weights.weight_bytes)}{buffers}"))
    if weights.mapped_weight_bytes:
        all_of_it = use.external.total_bytes == weights.mapped_weight_bytes
        kind = "/".join(use.external.memory) if all_of_it else "external"
        resident = f"resident {size(weights.mapped_weight_resident_bytes)}"
        if all_of_it:
            resident = resident_text(use.external)
        text = f"{exact(weights.mapped_weight_bytes)}, {resident}"
        blocks.append(Line(f"  {f'of it {kind}':<14} {text}"))
    if use.external.total_bytes != weights.mapped_weight_bytes:
        text = f"{external_text(use.external)}, beside the allocator's"
        blocks.append(Line(f"  {_EXTERNAL:<15}{text}"))
    blocks += oom_lines(use)
    if use.operators is not None and use.operators.total_bytes:
        blocks.append(Line("  held at the peak of allocated:", FAINT))
        if use.categories is not None:
            blocks.append(Line(f"  {categories_text(use.categories)}"))
        blocks.append(breakdown_grid(use.operators, {}, requested=False, indent=2))
    return blocks


def oom_lines(use: DeviceUse) -> list[Line]:
    """That requests failed, and the last one in a few words."""
    if use.last_oom is None:
        return []
    times = "once" if use.ooms == 1 else f"{use.ooms:,} times, the last"
    went = ", the program went on" if use.last_oom.went_on else ""
    at = f"at {duration(use.last_oom.time_ns)}"
    return [
        Line(f"  {use.device} out of memory {times} {at}{went}:", WARNING),
        Line(f"    {asked_text(use.last_oom)}", WARNING),
        Line(f"    {held_text(use.last_oom)}; memtrace oom tells what would have made it fit"),
    ]


def _extreme(peak: Extreme) -> str:
    return f"{exact(peak.total_bytes)} at {duration(peak.time_ns)}"


def _process_blocks(summary: Summary) -> list[Block]:
    shown = sorted(summary.processes, key=lambda p: p.process.key != summary.main)
    ranked = any(process.process.rank is not None for process in summary.processes)
    columns = (
        Column("Process", right=True),
        *([Column("Rank", right=True)] if ranked else []),
        Column("Parent", right=True),
        Column("Started by"),
        Column("Ended", spare=True),
        Column("Events", right=True),
        Column("Lost", right=True),
        Column("Peaks", wide=True),
    )
    rows = tuple(_process_cells(process, ranked=ranked) for process in shown[:_PROCESSES_SHOWN])
    blocks: list[Block] = [
        Line(f"{len(summary.processes):,} processes (peak --process PID shows one)", TITLE),
        Grid(columns, rows),
    ]
    if len(shown) > _PROCESSES_SHOWN:
        blocks.append(Line(f"and {len(shown) - _PROCESSES_SHOWN:,} more, in --json", FAINT))
    return blocks


def _process_cells(summary: ProcessSummary, *, ranked: bool) -> tuple[str, ...]:
    peaks = [f"{u.device} {size(u.allocated.total_bytes)}" for u in summary.devices if u.allocated]
    rank, parent = summary.process.rank, summary.parent_pid
    return (
        str(summary.process.pid),
        *(["" if rank is None else str(rank)] if ranked else []),
        "" if parent is None else str(parent),
        summary.process.row["start_method"] or "",
        _ended(summary),
        f"{summary.events:,}",
        f"{summary.lost_total:,}",
        ", ".join(peaks) or "nothing allocated",
    )


def _hints(use: DeviceUse) -> list[str]:
    hints = []
    if use.weights.fp32_weight_bytes >= _HINT_MIN_BYTES:
        share = 100 * use.weights.fp32_weight_bytes / use.weights.weight_bytes
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
        hints += [f"{pin_text(pin)} of it (memtrace fragmentation)" for pin in use.pins]
    return hints


def next_command(summary: Summary, *, gap: bool = True) -> list[Line]:
    """What to type next: it answers for the device and process with the largest peak."""
    command = f"python -m memtrace peak {shlex.quote(summary.path)} --by module"
    line = Line(f"{'' if gap else '  '}next: {command}", FAINT)
    return [Line(""), line] if gap else [line]


def _cut(text: str, columns: int) -> str:
    return text if len(text) <= columns else text[: columns - 1] + "…"
