"""`memtrace leaks`: what grows, what is kept without growing, or that there is no leak."""

from __future__ import annotations

from memtrace.analyse.leaks import (
    CACHE,
    CARRIED,
    GROWTH,
    IRREGULAR,
    LEAST_STEPS,
    WARM_UP,
    DeviceLeaks,
    Growth,
    Leaks,
    Site,
)
from memtrace.report.losses import lost_lines
from memtrace.report.owners import Stacks, mostly, owner_text
from memtrace.report.page import FAINT, GOOD, TITLE, WARNING, Block, Column, Grid, Line
from memtrace.report.units import count, size

_KINDS = {
    WARM_UP: "warm-up",
    CACHE: "cache",
    CARRIED: "each step's",
    IRREGULAR: "irregular",
}
_MEANINGS = {
    WARM_UP: "warm-up: from the first half of the steps, nothing since",
    CACHE: "cache: kept for several steps, then replaced; it stays level",
    CARRIED: "each step's: replaced by the next step's",
    IRREGULAR: "irregular: more than at half time, but not again and again until the end",
}


def leaks_page(leaks: Leaks, *, top: int) -> list[Block]:
    """Device by device: the verdict in one line, then who grows and who is kept."""
    number = len(leaks.steps)
    blocks: list[Block] = [
        Line(f"Leaks of {leaks.process}: {count(number, 'step')}, {leaks.steps.what}", TITLE)
    ]
    if leaks.others:
        pids = ", ".join(str(process.pid) for process in leaks.others)
        blocks.append(Line(f"  other processes (--process PID shows one): {pids}", FAINT))
    blocks += lost_lines(leaks.process)
    told: set[str] = set()
    for device in leaks.devices:
        blocks += [Line(""), *_verdict(leaks, device)]
        growing = device.growing
        if growing:
            blocks += [Line(""), _growth_grid(growing[:top], leaks.stacks)]
        kept = [site for site in device.sites if site.kind != GROWTH]
        if kept:
            blocks += [Line(""), _kept_grid(kept[:top], leaks.stacks)]
        if len(growing) > top or len(kept) > top:
            blocks.append(Line(f"--top N names more than {top}, --by groups otherwise", FAINT))
        told.update(site.kind for site in kept[:top])
    if told:
        blocks.append(Line(""))
        blocks += [Line(text, FAINT) for kind, text in _MEANINGS.items() if kind in told]
    return blocks


def _verdict(leaks: Leaks, device: DeviceLeaks) -> list[Line]:
    number = len(leaks.steps)
    kept = f"{size(device.kept_bytes)} left by the steps where the last one begins"
    beside = f"beside {size(device.before_bytes)} from before the first"
    if not leaks.enough_steps:
        return [
            Line(
                f"{device.device}: too few steps to tell growth from warm-up ({number:,}; "
                f"{LEAST_STEPS} would do)",
                WARNING,
            ),
            Line(f"  {kept}, {beside}"),
        ]
    if not device.growing:
        late = sum(s.kept_bytes - s.early_bytes for s in device.sites if s.kind == IRREGULAR)
        verdict = Line(f"{device.device}: no leak: nothing grows over {number:,} steps", GOOD)
        if late:  # where it goes on, it is a leak that these steps do not show yet
            verdict = Line(
                f"{device.device}: nothing grows steadily over {number:,} steps, but {size(late)} "
                "came irregularly"
            )
        return [verdict, Line(f"  {kept}, {beside}")]
    rate = size(round(device.bytes_per_step))
    lines = [Line(f"{device.device}: grows by {rate} per step", WARNING)]
    left = device.steps_until_full
    if left is not None:
        total = size(device.total_bytes or 0)
        lines.append(Line(f"  full ({total}) after {left:,} more steps at the latest", WARNING))
    return [*lines, Line(f"  {kept}, {beside}")]


def _growth_grid(sites: tuple[Site, ...], stacks: Stacks) -> Grid:
    columns = (
        Column("Grows", wide=True),
        Column("Per step", right=True),
        Column("Kept", right=True),
        Column("Blocks", right=True, spare=True),
        Column("Rose"),
        Column("Mostly", wide=True),
    )
    rows = tuple(
        (
            owner_text(site.owner, stacks),
            size(round(site.growth.bytes_per_step)),
            size(site.kept_bytes),
            f"{site.kept_blocks:,}",
            _rose(site.growth),
            mostly(site.owner),
        )
        for site in sites
        if site.growth is not None
    )
    return Grid(columns, rows)


def _rose(growth: Growth) -> str:
    """How regular, in the last half: "each of 20 steps", "4 of 40, every 10th"."""
    if growth.rises == growth.intervals and growth.every == 1:
        return f"each of {growth.intervals:,} steps"
    every = f", every {ordinal(growth.every)}" if growth.every > 1 else ""
    return f"{growth.rises:,} of {growth.intervals:,}{every}"


def ordinal(number: int) -> str:
    """As in "every 3rd"."""
    if number % 100 in (11, 12, 13):
        return f"{number}th"
    return f"{number}" + {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")


def _kept_grid(sites: list[Site], stacks: Stacks) -> Grid:
    columns = (
        Column("No steady growth", wide=True),
        Column("Kind"),
        Column("Kept", right=True),
        Column("Blocks", right=True),
        Column("Mostly", wide=True),
    )
    rows = tuple(
        (
            owner_text(site.owner, stacks),
            _KINDS[site.kind],
            size(site.kept_bytes),
            f"{site.kept_blocks:,}",
            mostly(site.owner),
        )
        for site in sites
    )
    return Grid(columns, rows)
