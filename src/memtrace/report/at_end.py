"""The few lines that `memtrace run` ends with: peaks, losses, and the next command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import IO

from memtrace.analyse.summary import DeviceUse, Summary, summarise
from memtrace.errors import readable
from memtrace.report.losses import differs_text, trouble_lines
from memtrace.report.page import TITLE, WARNING, Block, Line, write_page
from memtrace.report.summary import main_process, next_command, oom_lines, shown_processes
from memtrace.report.units import count, duration, size
from memtrace.trace import open_trace


def write_end_summary(trace_dir: Path, shown: str, stream: IO[str]) -> None:
    """Prints the end of a run; `shown` is the trace's path as the user knows it."""
    summary = replace(summarise(open_trace(trace_dir)), path=readable(shown))
    write_page(end_page(summary), stream)


def end_page(summary: Summary) -> list[Block]:
    """A few lines: peaks per device, losses, and the next command."""
    main = main_process(summary)
    if main is None or summary.empty:
        reason = summary.empty or "no process was recorded"
        return [Line(f"memtrace: {summary.path}: {reason}", WARNING)]
    processes = len(summary.processes)
    by = "" if processes == 1 else f" of {processes:,} processes"
    title = f"memtrace: {summary.path}: {count(summary.events, 'event')}{by}"
    owner = "" if summary.root == summary.main else f" of {main.process}"
    return [
        Line(title, TITLE),
        *(_device_line(use, owner) for use in main.devices if use.allocated is not None),
        *(line for use in main.devices for line in oom_lines(use)),
        *_differing(summary),
        *trouble_lines(summary, shown_processes(summary)),
        *next_command(summary, gap=False),
    ]


def _differing(summary: Summary) -> list[Line]:
    several = len(summary.processes) > 1
    return [
        Line(f"  {f'{each.process}: ' if several else ''}{text}", WARNING)
        for each in summary.processes
        if (text := differs_text(each.process))
    ]


def _device_line(use: DeviceUse, owner: str) -> Line:
    words = [f"  {use.device}{owner}: nothing allocated"]
    if use.allocated is not None:
        peak = size(use.allocated.total_bytes)
        words = [f"  {use.device}{owner}: peak {peak} at {duration(use.allocated.time_ns)}"]
    if use.reserved is not None:
        words.append(f"reserved {size(use.reserved.total_bytes)}")
    if use.weights.weight_bytes:
        words.append(f"weights {size(use.weights.weight_bytes)}")
    if use.pinned_bytes:
        words.append(f"pinned {size(use.pinned_bytes)}")
    if use.external.total_bytes:
        words.append(f"{'/'.join(use.external.memory)} {size(use.external.total_bytes)}")
    groups = [] if use.operators is None else use.operators.rows
    biggest = next((row for row in groups if row.kind == "group"), None)
    if biggest is not None:
        words.append(f"most by {biggest.key} ({size(biggest.total_bytes)})")
    return Line(", ".join(words))
