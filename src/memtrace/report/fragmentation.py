"""`memtrace fragmentation`: what is reserved and not used, and which blocks keep it so."""

from __future__ import annotations

from memtrace.analyse.fragmentation import Fragmentation, Part, Pin
from memtrace.analyse.layout import DEFAULT_POOL, Kind
from memtrace.report.losses import lost_lines
from memtrace.report.owners import mostly, owner_text
from memtrace.report.page import FAINT, TITLE, WARNING, Block, Column, Grid, Line
from memtrace.report.units import count, duration, exact, size

_WHY = {"peak": "at the peak of reserved memory, ", "oom": "out of memory, ", "time": "at "}


def fragmentation_page(found: Fragmentation, *, top: int) -> list[Block]:
    """The sum, what is free by kind of memory, and who pins it."""
    moment = found.moment
    where = f"{_WHY[found.why]}{duration(moment.time_ns)}, event {moment.seq:,} of {found.process}"
    blocks: list[Block] = [
        Line(f"Fragmentation of {found.device}: {exact(found.free_bytes)}", TITLE),
        Line(f"  {where}"),
        Line(
            f"  reserved {exact(found.reserved_bytes)} - allocated {exact(found.allocated_bytes)}"
        ),
        Line(f"    = waiting {exact(found.waiting_bytes)} + free {exact(found.free_bytes)}"),
    ]
    if found.mismatch_bytes:
        blocks.append(
            Line(
                f"  segments and blocks differ by {exact(found.mismatch_bytes)} from the device's "
                "own totals: figures are bounds",
                WARNING,
            )
        )
    blocks += lost_lines(found.process)
    if not found.segments:
        return [*blocks, Line("  nothing was reserved in segments", FAINT)]
    blocks.append(Line(f"  of the free {free_text(found)}"))
    blocks += [Line(""), _parts_grid(found)]
    if found.pins:
        blocks += [Line(""), _pins_grid(found, top)]
        if len(found.pins) > top:
            blocks.append(Line(f"--top N names more than {top}, --by groups otherwise", FAINT))
        blocks += [
            Line(""),
            Line(
                "keeps: the owner's part of what is free beside its blocks; owners of one segment "
                "have equal parts",
                FAINT,
            ),
            Line("alone: what of it could go back if its blocks alone were gone", FAINT),
        ]
    return blocks


def free_text(found: Fragmentation) -> str:
    """Where the free bytes lie, in words."""
    words = []
    if found.empty_bytes:
        words.append(f"{size(found.empty_bytes)} in empty segments or pages")
    words.append(
        f"{size(found.pinned_bytes)} pinned by {count(sum(p.blocks for p in found.pins), 'block')}"
    )
    return f"{', '.join(words)}; the largest free block {size(found.largest_free_bytes)}"


def pin_text(pin: Pin) -> str:
    """One owner: "14 blocks of cache.py:101 update (kv_cache · h.3.attn) keep 412 MiB"."""
    of = mostly(pin.owner)
    verb = "keeps" if pin.blocks == 1 else "keep"
    return (
        f"{count(pin.blocks, 'block')} ({size(pin.block_bytes)}) of {pin.owner.name}"
        f"{f' ({of})' if of else ''} {verb} {size(pin.keeps_bytes)}"
    )


def kind_text(kind: Kind) -> str:
    """A kind of memory: "large", "small, expandable", "graph:1:2, large"."""
    words = [] if kind.pool == DEFAULT_POOL else [kind.pool]
    words.append("small" if kind.small else "large")
    if kind.expandable:
        words.append("expandable")
    if kind.stream:
        words.append(f"stream {kind.stream:#x}")
    return ", ".join(words)


def _parts_grid(found: Fragmentation) -> Grid:
    waits = bool(found.waiting_bytes)
    columns = (
        Column("Memory", wide=True),
        Column("Units", right=True),
        Column("Reserved", right=True),
        Column("Allocated", right=True),
        *([Column("Waiting", right=True)] if waits else []),
        Column("Free", right=True),
        Column("Empty", right=True, spare=True),
        Column("Pinned", right=True),
        Column("Largest free", right=True, spare=True),
    )

    def cells(part: Part) -> tuple[str, ...]:
        return (
            kind_text(part.kind),
            f"{part.units:,}",
            size(part.reserved_bytes),
            size(part.allocated_bytes),
            *([size(part.waiting_bytes)] if waits else []),
            size(part.free_bytes),
            size(part.empty_bytes),
            size(part.pinned_bytes),
            size(part.largest_free_bytes),
        )

    return Grid(columns, tuple(cells(part) for part in found.parts))


def _pins_grid(found: Fragmentation, top: int) -> Grid:
    columns = (
        Column("Pinned by", wide=True),
        Column("Keeps", right=True),
        Column("Alone", right=True),
        Column("Blocks", right=True),
        Column("Held", right=True),
        Column("Units", right=True, spare=True),
        Column("Oldest", right=True, spare=True),
        Column("Mostly", wide=True),
    )
    rows = [
        (
            owner_text(pin.owner, found.stacks),
            size(pin.keeps_bytes),
            size(pin.alone_bytes),
            f"{pin.blocks:,}",
            size(pin.block_bytes),
            f"{pin.units:,}",
            duration(pin.oldest_ns),
            mostly(pin.owner),
        )
        for pin in found.pins[:top]
    ]
    rest = found.pins[top:]
    if rest:
        rows.append(
            (
                f"{count(len(rest), 'other owner')}",
                size(sum(pin.keeps_bytes for pin in rest)),
                size(sum(pin.alone_bytes for pin in rest)),
                f"{sum(pin.blocks for pin in rest):,}",
                size(sum(pin.block_bytes for pin in rest)),
                "",
                "",
                "",
            )
        )
    faint = frozenset({top} if rest else ())
    return Grid(columns, tuple(rows), faint)
