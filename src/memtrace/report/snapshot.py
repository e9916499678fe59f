"""`memtrace peak` and `memtrace at`: one instant of a device, and who held it."""

from __future__ import annotations

from memtrace.analyse.breakdown import not_recorded
from memtrace.analyse.counters import BEFORE_FIRST, Moment
from memtrace.analyse.fragmentation import Fragmentation
from memtrace.analyse.peak import Peak, Reached
from memtrace.analyse.snapshot import Snapshot
from memtrace.analyse.stack import told_frames
from memtrace.report.breakdown import (
    breakdown_grid,
    categories_text,
    external_text,
)
from memtrace.report.fragmentation import free_text, pin_text
from memtrace.report.losses import lost_lines
from memtrace.report.page import FAINT, TITLE, WARNING, Block, Line
from memtrace.report.units import count, duration, exact, size
from memtrace.trace import Process

_FRAMES_SHOWN = 8
_OTHERS_SHOWN = 4
#: What autograd puts before the name of the node that it runs.
_ENGINE = "autograd::engine::evaluate_function: "


def peak_page(peak: Peak, *, top: int) -> list[Block]:
    """The peak, what reached it, and who held it."""
    blocks: list[Block] = [
        Line(
            f"Peak of {peak.of} memory on {peak.device}: {exact(peak.total_bytes)}",
            TITLE,
        ),
        Line(f"  at {_place(peak.moment, peak.process)}"),
    ]
    if peak.reached is not None:
        blocks += _reached_lines(peak.reached, peak.process)
    else:
        blocks.append(Line("  the allocation that reached it was not recorded", WARNING))
    blocks += _context_lines(peak.snapshot)
    if peak.fragmentation is not None and peak.fragmentation.free_bytes:
        blocks += _unused_lines(peak.fragmentation)
    others = [(p.pid, h.total_bytes) for p, h in peak.peaks if p.key != peak.process.key]
    blocks += _others_lines([f"{pid} (peak {size(total)})" for pid, total in others])
    return [*blocks, Line(""), *_table(peak.snapshot, top)]


def snapshot_page(snapshot: Snapshot, time_ns: int, *, top: int) -> list[Block]:
    """What was live at an instant."""
    return [
        Line(
            f"{snapshot.of.capitalize()} memory on {snapshot.device} at {duration(time_ns)}: "
            f"{exact(snapshot.breakdown.total_bytes)}",
            TITLE,
        ),
        Line(f"  {_left_by(snapshot)}"),
        *_context_lines(snapshot),
        *_others_lines([str(process.pid) for process in snapshot.others]),
        Line(""),
        *_table(snapshot, top),
    ]


def _unused_lines(found: Fragmentation) -> list[Line]:
    """What is reserved and not used, and by whose blocks it is kept."""
    lines = [Line(f"  unused {size(found.free_bytes)}: {free_text(found)}")]
    if found.pins:
        lines.append(Line(f"    {pin_text(found.pins[0])}"))
        lines.append(Line("    memtrace fragmentation tells of all", FAINT))
    return lines


def _others_lines(told: list[str]) -> list[Line]:
    """The other processes that used the device, each in a few words."""
    if not told:
        return []
    more = f" and {len(told) - _OTHERS_SHOWN:,} more" if len(told) > _OTHERS_SHOWN else ""
    shown = ", ".join(told[:_OTHERS_SHOWN])
    return [Line(f"  other processes (--process PID shows one): {shown}{more}", FAINT)]


def _left_by(snapshot: Snapshot) -> str:
    if snapshot.moment.seq == BEFORE_FIRST:
        return f"before the first event of {snapshot.process} on {snapshot.device}"
    return f"as the last event before left it: {_place(snapshot.moment, snapshot.process)}"


def _place(moment: Moment, process: Process) -> str:
    name = process.device_names.get(moment.device)
    place = f"{duration(moment.time_ns)}, event {moment.seq:,} of {process}"
    return f"{place}; {moment.device} is {name}" if name else place


def _reached_lines(reached: Reached, process: Process) -> list[Line]:
    no_operators = not_recorded("operator", process.row)
    operator = reached.operator or (
        f"an allocation ({no_operators})" if no_operators else "an allocation outside any operator"
    )
    if reached.origin == "preexisting":
        operator = "memory from before recording began"
    if reached.top_operator and reached.top_operator != reached.operator:
        operator += f" (in {reached.top_operator.removeprefix(_ENGINE)})"
    elif reached.forward_operator and reached.forward_operator != reached.operator:
        operator += f" (backward of {reached.forward_operator})"
    of = exact(reached.size_bytes)
    if reached.block_bytes not in (None, reached.size_bytes):
        of = f"{reached.size_bytes:,} bytes in a block of {exact(reached.block_bytes or 0)}"
    where = [
        f"module {reached.module}" if reached.module else "",
        reached.source or "",
        reached.label or "",
        f"category {reached.category}" if reached.category else "",
        f"stage {reached.stage}" if reached.stage else "",
        reached.step or "",
    ]
    frames = told_frames(reached.stack)
    lines = [Line(f"  reached by {operator}: {of}")]
    if any(where):
        lines.append(Line("    " + " · ".join(word for word in where if word)))
    no_stacks = not_recorded("stack", process.row)
    if not frames and no_stacks:
        lines.append(Line(f"    {no_stacks}", FAINT))
    lines += [Line(f"      {frame.text}", FAINT) for frame in frames[:_FRAMES_SHOWN]]
    more = len(frames) - _FRAMES_SHOWN
    if more > 0:
        lines.append(Line(f"      … {count(more, 'frame')} more", FAINT))
    return lines


def _context_lines(snapshot: Snapshot) -> list[Line]:
    moment, held = snapshot.moment, snapshot.breakdown
    totals = [
        f"{of} {size(total)}"
        for of in ("allocated", "active", "reserved")
        if (total := moment.total_bytes(of)) is not None
        and not (snapshot.device == "cpu" and of != "allocated")
    ]
    asked = ""
    if snapshot.of != "requested" and held.requested_bytes != held.total_bytes:
        asked = f", for which {exact(held.requested_bytes)} were requested"
    lines = [Line(f"  then {' · '.join(totals)}")]
    if held.rows:
        lines.append(Line(f"  {count(held.allocations, 'live block')}{asked}"))
    if snapshot.categories.rows:
        lines.append(Line(f"  {categories_text(snapshot.categories)}"))
    if snapshot.pinned_bytes:
        lines.append(Line(f"  of it pinned: {exact(snapshot.pinned_bytes)}"))
    if held.unattributed_bytes:
        lines.append(Line(f"  unattributed by {held.by}: {exact(held.unattributed_bytes)}"))
    if snapshot.external.total_bytes:
        lines.append(Line(f"  beside it, not torch's own: {external_text(snapshot.external)}"))
    if held.excess_bytes:
        lines.append(
            Line(
                f"  live allocations hold {exact(held.excess_bytes)} more than the device's total",
                WARNING,
            )
        )
    return [*lines, *lost_lines(snapshot.process)]


def _table(snapshot: Snapshot, top: int) -> list[Block]:
    held = snapshot.breakdown
    if not held.rows:
        return [Line("nothing was live")]
    differs = snapshot.of != "requested" and held.requested_bytes != held.total_bytes
    blocks: list[Block] = [breakdown_grid(held, snapshot.stacks, requested=differs)]
    if any(row.kind == "other" for row in held.rows):
        blocks += [Line(""), Line(f"--top N names more than {top}, --by groups otherwise", FAINT)]
    return blocks
