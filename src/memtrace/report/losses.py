"""What is missing from a trace, in words: records, which make figures bounds, or only names; what
was allocated while the recording was paused.
"""

from __future__ import annotations

from memtrace.analyse.summary import ProcessSummary, Summary
from memtrace.report.page import FAINT, WARNING, Line
from memtrace.report.units import count, duration, size
from memtrace.trace import Process, Trace

#: The losses that cost no byte (schema.LOST_WORDS): what to count, and what befell it.
_CUT_WORDS = {
    "stack_too_deep": ("stack", "cut at 512 frames"),
    "operators_deep": ("operator call", "nested too deep to be told"),
    "text_no_space": ("name", "not written for want of space"),
    "pool_unnumbered": ("event", "of memory pools beyond the 4,096 told apart"),
    "text_bytes_cut": ("byte", "of names cut off"),
    "unknown_text_ids": ("name", "not known"),
    "unmatched_names": ("tensor", "in no recorded allocation"),
    "forgotten_forward_calls": ("node of autograd", "whose forward call was forgotten"),
}


def lost_lines(process: Process) -> list[Line]:
    """The warning of an answer about one process; none where no record is missing."""
    lost = process.row["lost_total"]
    lines = []
    if lost:
        text = f"{count(lost, 'record')} lost while recording: figures are bounds"
        lines.append(Line(f"  {text}", WARNING))
    if differs := differs_text(process):
        lines.append(Line(f"  {differs}", WARNING))
    told = (paused_text(process), dropped_text(process))
    return [*lines, *(Line(f"  {text}", FAINT) for text in told if text)]


def differs_text(process: Process) -> str:
    """That torch counted otherwise; empty: it did not, or could not be asked."""
    if process.row["reconciled"] is not False:
        return ""
    most = process.row["mismatch_bytes"] or 0
    return f"torch's own counters differ by up to {most:,} bytes: sizes of blocks may be wrong"


def missing_notes(trace: Trace) -> list[str]:
    """The same of every process, for what is not a page of ours; a line each."""
    several = len(trace.process_list) > 1
    return [
        (f"{process}: " if several else "") + line.text.strip()
        for process in trace.process_list
        for line in lost_lines(process)
    ]


def paused_text(process: Process) -> str:
    """That recording was paused, for how long, and what torch counted then; empty: it was not."""
    intervals = process.paused_intervals
    if not intervals:
        return ""
    end_ns = process.row["end_time_ns"] or 0
    lasted = sum(max((end_ns if end is None else end) - start, 0) for start, end in intervals)
    times = "" if len(intervals) == 1 else f" ({len(intervals):,} times)"
    counted = " and ".join(
        f"{size(most)} of {device}" for device, most in sorted(process.paused_peaks.items())
    )
    seen = f"; torch counted up to {counted}" if counted else ""
    return f"recording was paused for {duration(lasted)}{times}: a peak meanwhile is not seen{seen}"


def dropped_text(process: Process, *, of_sums: bool = False) -> str:
    """What `--max-disk` has left out; empty: nothing.

    Args:
        of_sums: for an answer that adds up allocations over time, not one of an instant.
    """
    dropped = process.dropped
    if dropped is None:
        return ""
    told = "totals, peaks and ends of stages have them, other moments may not"
    if of_sums:
        told = "the sums here lack them"
    return (
        f"{count(dropped.allocations, 'allocation')} of up to {size(dropped.largest_bytes)} left "
        f"out to stay within --max-disk {size(dropped.max_disk_bytes)}: {told}"
    )


def trouble_lines(summary: Summary, shown: tuple[ProcessSummary, ...]) -> list[Line]:
    """What is missing or odd, of the processes shown by name and of the others together."""
    lines: list[Line] = []
    for process in shown:
        of = f" by {process.process}" if len(summary.processes) > 1 else ""
        if process.lost_total or process.bounding:
            lines.append(_label("lost", f"{_lost(process)}{of}: figures are bounds", WARNING))
    shown_keys = {process.process.key for process in shown}
    rest = [p for p in summary.processes if p.process.key not in shown_keys]
    if any(p.bounding or p.lost_total for p in rest):
        lost = count(sum(p.lost_total for p in rest), "record")
        lines.append(_label("lost", f"{lost} by other processes", WARNING))
    if not lines:
        lines.append(_label("lost", "nothing"))
    for process in shown:
        if paused := paused_text(process.process):
            who = f"{process.process}: " if len(summary.processes) > 1 else ""
            lines.append(Line(f"  {who}{paused}", FAINT))
    cut = _cut(summary)
    if cut:
        lines.append(_label("cut", f"{cut}; no byte is missing"))
    lines += [Line(f"  {text}", FAINT) for p in shown if (text := dropped_text(p.process))]
    unmatched = sum(process.unmatched_frees for process in shown)
    if unmatched:
        lines.append(Line(f"  {count(unmatched, 'free')} of memory from before recording", FAINT))
    gone = sum(process.unscanned_models for process in shown)
    if gone:
        text = f"{count(gone, 'model')} gone before a scan: weights of theirs have no names"
        lines.append(Line(f"  {text}", FAINT))
    lines += [Line(f"  {reason}", WARNING) for reason in _not_recorded(summary)]
    missed = sum(process.unrecorded_children for process in summary.processes)
    if missed:
        lines.append(Line(f"  children that could not be recorded: {missed:,}", WARNING))
    if summary.running:
        lines.append(
            Line(f"  still running, not in this trace yet: {len(summary.running):,}", WARNING)
        )
    for process in shown:
        if process.process.row["complete"] is False:
            who = str(process.process) if len(summary.processes) > 1 else "the process"
            style = WARNING if process.process.key == summary.root else FAINT
            how = f"{who} did not end in order; all"
            if process.process.row["end_reason"] == "unknown":  # or has not ended, for all we know
                how = f"how {who} ended is not known; all"
            lines.append(Line(f"  {how} that it had recorded is here", style))
    return lines


def troubles(summary: Summary, shown: tuple[ProcessSummary, ...]) -> list[Line]:
    """The same where only trouble is worth a line: nothing, where nothing is missing."""
    lines = trouble_lines(summary, shown)
    return [line for line in lines if line.text.split() != ["lost", "nothing"]]


def _label(label: str, text: str, style: str = "") -> Line:
    return Line(f"  {label:<9}{text}", style)


def _lost(process: ProcessSummary) -> str:
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in process.bounding.items())
    records = count(process.lost_total, "record") if process.lost_total else ""
    return f"{records} ({kinds})" if records and kinds else records or kinds


def _cut(summary: Summary) -> str:
    totals: dict[str, int] = {}
    for process in summary.processes:
        for kind, number in process.cut.items():
            totals[kind] = totals.get(kind, 0) + number
    told = []
    for kind, number in totals.items():
        noun, befell = _CUT_WORDS.get(kind, (kind, ""))
        told.append(f"{count(number, noun)} {befell}".rstrip())
    return ", ".join(told)


def _not_recorded(summary: Summary) -> list[str]:
    """What the hooks could not record, each reason once."""
    reasons = [process.process.row.get("hook_error") for process in summary.processes]
    said = summary.empty or ""
    return list(dict.fromkeys(reason for reason in reasons if reason and reason not in said))
