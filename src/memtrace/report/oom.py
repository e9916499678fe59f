"""`memtrace oom`: a failed allocation, what was in its way, and what would have made it fit."""

from __future__ import annotations

from collections.abc import Sequence

from memtrace.analyse.failures import Oom
from memtrace.analyse.oom import PostMortem
from memtrace.analyse.owners import AskedBy
from memtrace.analyse.request import Fit
from memtrace.analyse.stack import told_frames
from memtrace.report.breakdown import breakdown_grid
from memtrace.report.fragmentation import pin_text
from memtrace.report.losses import lost_lines
from memtrace.report.page import FAINT, GOOD, TITLE, WARNING, Block, Column, Grid, Line
from memtrace.report.units import count, duration, exact, size

_FRAMES_SHOWN = 8
_PINS_SHOWN = 3
_LISTED = 20
_REASONS = {
    "pieces": "in pieces that are too small",
    "size_class": "of the other size class (up to 1 MiB, or above)",
    "stream": "of other streams",
    "pool": "of other memory pools",
    "empty": "in segments that were not given back",
}


def oom_page(found: PostMortem, listed: Sequence[Oom]) -> list[Block]:
    """One failed request; `listed`: all of them, the others are told in a line each."""
    oom = found.oom
    which = f" ({found.number:,} of {found.ooms:,})" if found.ooms > 1 else ""
    went = "the program went on" if oom.went_on else "nothing was allocated on it afterwards"
    blocks: list[Block] = [
        Line(f"Out of memory on {oom.device}{which}: {exact(oom.asked_bytes)} asked for", TITLE),
        Line(f"  at {duration(oom.time_ns)}, event {oom.moment.seq:,} of {oom.process}; {went}"),
        Line(f"  asked for by {asked_by(oom)}"),
    ]
    frames = told_frames(oom.stack)
    blocks += [Line(f"      {frame.text}", FAINT) for frame in frames[:_FRAMES_SHOWN]]
    if len(frames) > _FRAMES_SHOWN:
        blocks.append(Line(f"      … {count(len(frames) - _FRAMES_SHOWN, 'frame')} more", FAINT))
    blocks += _cpu_lines(found) if oom.device == "cpu" else _cuda_lines(found)
    blocks += lost_lines(oom.process)
    if found.fits:
        blocks += [Line(""), Line("What would have made it fit, each alone:", TITLE)]
        blocks += [_fit_line(fit) for fit in found.fits]
    blocks += [Line(""), Line("Held at that moment:", TITLE)]
    if found.categories.unattributed_bytes < found.categories.total_bytes:
        blocks += [breakdown_grid(found.categories, {}, requested=False), Line("")]
    blocks.append(breakdown_grid(found.held, found.stacks, requested=False))
    if found.ooms > 1:
        blocks += [Line(""), *_list(listed)]
    return blocks


def no_oom_page() -> list[Block]:
    """Nothing failed."""
    return [Line("no allocation failed", GOOD)]


def asked_text(oom: Oom) -> str:
    """How much was asked for, and by whom."""
    return f"{size(oom.asked_bytes)} asked for by {asked_by(oom)}"


def held_text(oom: Oom) -> str:
    """What was held then: "22.1 GiB live, 1.30 GiB reserved but unusable"."""
    text = f"{size(oom.allocated_bytes)} live"
    if oom.device != "cpu":
        unused = max((oom.moment.reserved_bytes or 0) - (oom.moment.active_bytes or 0), 0)
        text += f", {size(unused)} reserved but unusable"
    return text


def asked_by(oom: AskedBy) -> str:
    """The operator, the module and the line: "aten::mm in h.3.mlp (model.py:88 forward)"."""
    words = oom.operator or "an allocation outside any operator"
    if oom.forward_operator:
        words += f" (backward of {oom.forward_operator})"
    elif oom.top_operator and oom.top_operator != oom.operator:
        words += f" (of {oom.top_operator})"
    if oom.module:
        words += f" in {oom.module}"
    return f"{words} ({oom.source})" if oom.source else words


def _cuda_lines(found: PostMortem) -> list[Line]:
    oom, moment = found.oom, found.oom.moment
    free = "not known" if oom.device_free_bytes is None else size(oom.device_free_bytes)
    of = f" of {size(found.total_bytes)}" if found.total_bytes else ""
    outside = ""
    if found.outside_bytes:
        outside = f" · not torch's {size(found.outside_bytes)}"
    lines = [
        Line(
            f"  then allocated {size(moment.allocated_bytes or 0)} · reserved "
            f"{size(moment.reserved_bytes or 0)} · free on the device {free}{of}{outside}"
        )
    ]
    if found.neighbours:
        held = ", ".join(f"{process.pid} {size(total)}" for process, total in found.neighbours)
        lines.append(Line(f"  other recorded processes had reserved: {held}"))
    if found.limit_bytes is not None:
        lines.append(Line(f"  this process may reserve {exact(found.limit_bytes)}"))
    short = f"{exact(found.short_bytes)} short"
    if not found.short_bytes:
        short = "it had so much free, but the driver did not give it"
    lines.append(Line(f"  the device had to give {exact(found.needed_bytes)}: {short}", WARNING))
    if found.unusable_bytes:
        lines.append(Line(f"  reserved but unusable {exact(found.unusable_bytes)}, of it", WARNING))
        for reason, total in found.unusable.items():
            largest = ""
            if reason == "pieces":
                largest = f", the largest {exact(found.largest_usable_bytes)}"
            lines.append(Line(f"    {size(total)} {_REASONS[reason]}{largest}"))
        pins = () if found.fragmentation is None else found.fragmentation.pins[:_PINS_SHOWN]
        lines += [Line(f"    {pin_text(pin)}", FAINT) for pin in pins]
    return lines


def _cpu_lines(found: PostMortem) -> list[Line]:
    oom = found.oom
    lines = [Line(f"  then allocated {exact(oom.allocated_bytes)}")]
    if oom.device_free_bytes is None:
        return lines
    lines.append(Line(f"  the host had {exact(oom.device_free_bytes)} available"))
    if found.short_bytes:
        lines.append(Line(f"  {exact(found.short_bytes)} too little", WARNING))
    else:
        lines.append(
            Line(
                "  which is enough: a limit of the process (ulimit -v) or the kernel's rule of "
                "overcommitment refused it",
                WARNING,
            )
        )
    return lines


def _fit_line(fit: Fit) -> Line:
    bytes_text = size(fit.size_bytes)
    text = {
        "device_free": f"{bytes_text} more free on the device",
        "limit": f"a limit of this process that is {bytes_text} higher",
        "outside": f"without the {bytes_text} of CUDA contexts, libraries and other processes",
        "expandable": f"expandable_segments:True, with all blocks as they lie: {bytes_text} in "
        "whole free pages",
        "waiting": f"without the {bytes_text} that wait for another stream",
        "step": f"without the {bytes_text} allocated since the last step began",
        "category": f"without {fit.name} ({bytes_text})",
    }[fit.what]
    answer = {True: "yes", False: "no", None: "perhaps"}[fit.fits]
    return Line(f"  {answer:<8}{text}", GOOD if fit.fits else FAINT)


def _list(listed: Sequence[Oom]) -> list[Block]:
    columns = (
        Column("No.", right=True),
        Column("At", right=True),
        Column("Device"),
        Column("Asked for", right=True),
        Column("Live", right=True),
        Column("Went on"),
        Column("By", wide=True),
    )
    rows = tuple(
        (
            f"{number:,}",
            duration(oom.time_ns),
            oom.device,
            size(oom.asked_bytes),
            size(oom.allocated_bytes),
            "yes" if oom.went_on else "no",
            asked_by(oom),
        )
        for number, oom in list(enumerate(listed, 1))[-_LISTED:]
    )
    blocks: list[Block] = [
        Line(f"{count(len(listed), 'failed request')} (--number N tells of one):", TITLE),
        Grid(columns, rows),
    ]
    if len(listed) > _LISTED:
        blocks.append(Line(f"and {len(listed) - _LISTED:,} before, in --json", FAINT))
    return blocks
