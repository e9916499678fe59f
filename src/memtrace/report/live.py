"""A recording while it runs: the words and lines that `memtrace live` shows."""

from __future__ import annotations

from memtrace.analyse.live_view import (
    ENDED,
    FINISHED,
    GONE,
    KILLED,
    LIVE_GROUPINGS,
    PAUSED,
    REFUSED,
    STARTING,
    DeviceView,
    Holder,
    LiveView,
    ProcessView,
)
from memtrace.report.page import FAINT, GOOD, TITLE, WARNING, Block, Column, Grid, Line
from memtrace.report.units import count, duration, exact, percent, size

#: What the holders of a grouping are called in a heading.
HEADINGS = {
    "category": "Category",
    "module": "Module",
    "operator": "Operator",
    "source": "Source line",
}
_CURVE_SIGNS = "▁▂▃▄▅▆▇█"


def live_page(view: LiveView, *, device: str | None, top: int) -> list[Block]:
    """Everything of one moment, process by process."""
    blocks: list[Block] = []
    if not view.processes:
        blocks.append(Line(f"{view.trace}: the recording starts, nothing is written yet", TITLE))
    for process in view.processes:
        if blocks:
            blocks.append(Line(""))
        blocks.append(Line(process_text(view, process), TITLE))
        text, style = state_text(view, process)
        blocks += [Line(f"  {text}", style), Line(f"  {progress_text(process)}")]
        if process.lost:
            blocks.append(Line(f"  {lost_text(process)}", WARNING))
        for shown in process.devices:
            if device in (None, shown.device):
                blocks += _device_blocks(shown, top)
    return blocks


def process_text(view: LiveView, process: ProcessView) -> str:
    """The trace, and which process of it."""
    rank = "" if process.rank is None else f" (rank {process.rank})"
    program = f": {process.program}" if process.program else ""
    return f"{view.trace} · process {process.pid or process.key}{rank}{program}"


def state_text(view: LiveView, process: ProcessView) -> tuple[str, str]:
    """Whether it still records, and what to do when it does not; and a style."""
    summary = f"python -m memtrace summary {view.trace}"
    recover = f"python -m memtrace recover {view.trace}"
    if process.state == FINISHED:
        return f"ended, the trace is finished; next: {summary}", GOOD
    if process.state == ENDED:
        return f"ended, the trace is being finished; then: {summary}", GOOD
    if process.state == KILLED:
        return f"killed; if the trace is not finished in a moment: {recover}", WARNING
    if process.state == GONE:
        return "the recording was deleted while it was followed", WARNING
    if process.state == REFUSED:
        return process.why, WARNING
    if process.state == STARTING:
        return "the recording starts", FAINT
    text = "recording is paused" if process.state == PAUSED else "recording"
    if process.read_permille < 1000:
        return f"{text}; catching up, {percent(process.read_permille)} read", WARNING
    return text, ""


def progress_text(process: ProcessView) -> str:
    """Time, stage, step and events."""
    parts = [duration(process.time_ns)]
    if process.stage:
        parts.append(f"stage {process.stage}")
    if process.step:
        how = "running" if process.step_running else "done"
        of = f" ({process.step_name})" if process.step_name else ""
        parts.append(f"step {process.step:,}{of} {how}")
    parts.append(count(process.events, "event"))
    if not process.lost:
        parts.append("nothing lost")
    return " · ".join(parts)


def lost_text(process: ProcessView) -> str:
    """What was lost, by kind."""
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in process.lost)
    return f"lost while recording: {kinds}: figures are bounds"


def totals_text(device: DeviceView) -> str:
    """What a device holds and held at most, in a line."""
    parts = [f"allocated {size(device.allocated_bytes)}"]
    if device.reserved_bytes is not None:
        total = f" of {size(device.total_bytes)}" if device.total_bytes else ""
        parts.append(f"reserved {size(device.reserved_bytes)}{total}")
    at = "" if device.peak_time_ns is None else f" at {duration(device.peak_time_ns)}"
    parts.append(f"peak so far {size(device.peak_bytes)}{at}")
    if device.external_bytes:
        parts.append(f"beside it, not torch's own, {size(device.external_bytes)}")
    if device.ooms:
        parts.append(f"{count(device.ooms, 'allocation')} failed")
    return " · ".join(parts)


def holder_name(holder: Holder, by: str) -> str:
    """Its name, or what the rows without one are called."""
    return LIVE_GROUPINGS[by] if holder.name is None else holder.name


def _device_blocks(device: DeviceView, top: int) -> list[Block]:
    blocks: list[Block] = [
        Line(""),
        Line(f"{device.device}: {totals_text(device)}", TITLE),
        Line(f"  allocated {exact(device.allocated_bytes)}, peak {exact(device.peak_bytes)}"),
    ]
    curve = _curve(device.allocated_curve)
    if curve:
        blocks.append(Line(f"  {curve}", FAINT))
    for by, heading in HEADINGS.items():
        columns = (
            Column(heading, wide=True),
            Column("Now", right=True),
            Column("Blocks", right=True),
            Column("At the peak", right=True),
            Column("Blocks", right=True, spare=True),
        )
        holders = device.top(by)
        rows = tuple(
            (
                holder_name(h, by),
                size(h.now_bytes),
                f"{h.now_blocks:,}",
                size(h.peak_bytes),
                f"{h.peak_blocks:,}",
            )
            for h in holders[:top]
        )
        blocks += [Line(""), Grid(columns, rows, indent=2)]
        if len(holders) > top:
            blocks.append(Line(f"  and {len(holders) - top:,} more, in --json", FAINT))
    return blocks


def _curve(values: tuple[int, ...]) -> str:
    most = max(values, default=0)
    if not most:
        return ""
    last = len(_CURVE_SIGNS) - 1
    return "".join(" " if not v else _CURVE_SIGNS[v * last // most] for v in values)
