"""`memtrace diff`: what changed between two traces, and by how much."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from memtrace.analyse.allowance import Allowance
from memtrace.analyse.breakdown import GROUP
from memtrace.analyse.diff import (
    GONE,
    NEW,
    PEAK,
    SAME,
    STAGE_END,
    Amount,
    Change,
    Comparison,
    DeviceDiff,
    Diff,
    Missing,
)
from memtrace.report.losses import dropped_text
from memtrace.report.page import BAD, FAINT, GOOD, TITLE, WARNING, Block, Column, Grid, Line
from memtrace.report.units import count, duration, exact, size
from memtrace.trace import Process, Trace

_MOVED = {
    "source": "lines that moved within their function",
    "module": "modules with another wrapper",
    "label": "modules with another wrapper",
}


def diff_page(diff: Diff, *, top: int) -> list[Block]:
    """What changed on each device that both have; of owners, the `top` largest changes."""
    blocks: list[Block] = []
    for device in diff.devices:
        blocks += [*_device(device, diff, top), Line("")]
    for missing in diff.only_a:
        blocks.append(Line(f"{_only(missing, 'A', diff.a)}", WARNING))
    for missing in diff.only_b:
        blocks.append(Line(f"{_only(missing, 'B', diff.b)}", WARNING))
    if not diff.devices:
        blocks.append(Line("the traces have no device in common", WARNING))
    return blocks


def grown_too_much(diff: Diff, allowed: Allowance) -> str | None:
    """The one line for whoever waits for an exit status; None: no peak grew by more than allowed.

    A device that only B uses has grown from nothing, unless A would not have recorded it.
    """
    found = [(d.device, int(d.peak.a_bytes), int(d.peak.b_bytes)) for d in diff.devices]
    found += [(m.device, 0, m.peak_bytes) for m in diff.only_b if m.recorded]
    too_much = [each for each in found if allowed.is_exceeded(*each[1:])]
    if not too_much:
        return None
    told = [
        f"on {device} by {exact(b - a)}, {growth(a, b)} ({size(a)} → {size(b)})"
        for device, a, b in too_much
    ]
    return f"the peak of {diff.of} memory grew {'; '.join(told)}: more than {allowed.text} allowed"


def signed(amount: Amount) -> str:
    """A change: "+1.50 MiB", "-512 B", "0 B"."""
    whole = round(amount)
    return f"+{size(whole)}" if whole > 0 else size(whole)


def growth(a_bytes: Amount, b_bytes: Amount) -> str:
    """A change in percent of what was: "+22.4 %"; "new", "gone", or "" where it stayed."""
    if a_bytes == b_bytes:
        return ""
    if not a_bytes or not b_bytes:
        return NEW if not a_bytes else GONE
    ratio = float(b_bytes / a_bytes)
    return f"{100 * (ratio - 1):+.1f} %" if ratio < 11 else f"{ratio:.1f}x"


def comparison_name(found: Comparison) -> str:
    """Of an instant or a kind of step."""
    if found.what == PEAK:
        return "peak"
    if found.what == STAGE_END:
        return f"end of stage {found.name}"
    return f"per {found.name} step ({found.a_steps:,} and {found.b_steps:,})"


def moved_note(by: str, changes: Sequence[Change]) -> str | None:
    """That owners were matched which have another name in either trace."""
    moved = sum(change.was is not None for change in changes)
    return f"{moved:,} matched: {_MOVED[by]}" if moved else None


def _device(device: DeviceDiff, diff: Diff, top: int) -> list[Block]:
    peak = device.peak
    change = growth(peak.a_bytes, peak.b_bytes)
    told = f", {signed(peak.delta_bytes)}" if peak.delta_bytes else ", the same"
    blocks: list[Block] = [
        Line(
            f"{device.device}: peak of {diff.of} memory {size(int(peak.a_bytes))} → "
            f"{size(int(peak.b_bytes))}{told}{f' ({change})' if change else ''}",
            TITLE,
        ),
        *_sides(device, diff),
        Line(""),
        _totals(device),
    ]
    if device.stages_left_out:
        left = count(device.stages_left_out, "more stage")
        blocks.append(Line(f"{left} in both: not compared", FAINT))
    for letter, only in (("A", device.only_a), ("B", device.only_b)):
        if only:
            blocks.append(Line(f"only in {letter}: {', '.join(only)}", FAINT))
    for by in diff.by:
        for found in (peak, *device.steps):
            blocks += _owners(found, by, top)
    return blocks


def _sides(device: DeviceDiff, diff: Diff) -> list[Block]:
    times = (device.peak.a_time_ns, device.peak.b_time_ns)
    lines: list[Block] = []
    for letter, trace, process, time_ns in zip(
        "AB", (diff.a, diff.b), (device.a, device.b), times, strict=True
    ):
        lines.append(Line(f"  {letter}: {trace.path}, {process} at {duration(time_ns or 0)}"))
        lines += _lost(process, of_steps=bool(device.steps))
    return lines


def _lost(process: Process, *, of_steps: bool) -> list[Block]:
    lines: list[Block] = []
    if lost := process.row["lost_total"]:
        lines.append(Line(f"     {count(lost, 'record')} lost: figures are bounds", WARNING))
    if dropped := dropped_text(process):
        lacking = "; bytes per step lack them: at least so many" if of_steps else ""
        lines.append(Line(f"     {dropped}{lacking}", FAINT))
    return lines


_CHANGE = (
    Column("A", right=True),
    Column("B", right=True),
    Column("Change", right=True),
    Column("", right=True),
)


def _totals(device: DeviceDiff) -> Grid:
    found = (device.peak, *device.stage_ends, *device.steps)
    rows = [
        (
            comparison_name(each),
            size(round(each.a_bytes)),
            size(round(each.b_bytes)),
            signed(each.delta_bytes),
            growth(each.a_bytes, each.b_bytes),
        )
        for each in found
    ]
    styles = {(i, 3): _style(each.delta_bytes) for i, each in enumerate(found)}
    faint = frozenset(i for i, each in enumerate(found) if not each.delta_bytes)
    return Grid((Column("", wide=True), *_CHANGE), tuple(rows), faint, styles=styles)


def _owners(found: Comparison, by: str, top: int) -> list[Block]:
    """The table of one comparison in one grouping; none where nothing changed."""
    changes = found.changes[by]
    changed = [change for change in changes if change.status != SAME]
    blocks: list[Block] = [Line(""), Line(_heading(found, by), TITLE)]
    if not changed:
        nothing = f"every {by.replace('_', ' ')} holds the same" if changes else "nothing in either"
        return [*blocks, Line(f"  {nothing}", FAINT)]
    shown, rest = changed[:top], changed[top:]
    most = max(change.distance_bytes for change in changed)
    rows = [_row(change, most) for change in shown]
    styles = {(i, 3): _style(change.delta_bytes) for i, change in enumerate(shown)}
    faint = {i for i, change in enumerate(shown) if change.kind != GROUP}
    same = [change for change in changes if change.status == SAME]
    for others, word in ((rest, "more that changed"), (same, "the same")):
        if others:
            faint.add(len(rows))
            rows.append(_row(_joined(others, f"{len(others):,} {word}"), most))
    columns = (Column(by.replace("_", " ").capitalize(), wide=True), *_CHANGE, Column("", bar=True))
    blocks.append(Grid(columns, tuple(rows), frozenset(faint), styles=styles))
    note = moved_note(by, changes)
    if note is not None:
        blocks.append(Line(note, FAINT))
    return blocks


def _heading(found: Comparison, by: str) -> str:
    if found.what == PEAK:
        return f"At the peak, by {by.replace('_', ' ')}"
    return f"Bytes per {found.name} step, by {by.replace('_', ' ')}"


def _row(change: Change, most: Fraction) -> tuple[str, ...]:
    name = change.key if change.kind in (GROUP, "joined") else f"({change.key})"
    if change.was is not None:
        name = f"{name} (was {change.was.rpartition(' ')[0] or change.was})"
    return (
        name,
        size(round(change.a_bytes)),
        size(round(change.b_bytes)),
        signed(change.delta_bytes),
        growth(change.a_bytes, change.b_bytes),
        str(int(1000 * change.distance_bytes / most) if change.kind != "joined" else 0),
    )


def _joined(changes: Sequence[Change], key: str) -> Change:
    sums = [
        sum(amounts)
        for amounts in zip(
            *((c.a_bytes, c.b_bytes, c.a_blocks, c.b_blocks) for c in changes), strict=True
        )
    ]
    return Change("joined", key, None, *sums)


def _style(delta: Amount) -> str:
    return BAD if delta > 0 else GOOD if delta < 0 else ""


def _only(missing: Missing, letter: str, trace: Trace) -> str:
    why = "" if missing.recorded else "; the other did not record it"
    of = f"a peak of {exact(missing.peak_bytes)}"
    return f"{missing.device}: only in {letter} ({trace.path}), with {of}{why}"
