"""What each step leaves behind, by who allocated it: warm-up, caches and true growth told apart.

Looked at is what is live where each step begins, of the memory that was allocated since the first
one. Two ways of growing are known: memory of ever more steps is still there where the last one
begins, and not because as much was given up for it (a list that is appended to); or memory that is
replaced, and never by less (a tensor that is concatenated to itself). What else differs from step
to step, in size or in how long it lives, is no growth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from memtrace.analyse.counters import Int64s, counted, equals, integers, may_hold
from memtrace.analyse.live_set import BYTES
from memtrace.analyse.owners import Owner, group_codes, owner_columns, owners, stacks_of_groups
from memtrace.analyse.stack import Frame
from memtrace.analyse.step_names import StepNames
from memtrace.analyse.steps import Steps, find_steps
from memtrace.analyse.target import choose_target, total_bytes
from memtrace.schema import SCHEMAS
from memtrace.trace import Process, Trace

GROWTH, WARM_UP, CACHE, CARRIED, IRREGULAR = (
    "growth", "warm_up", "cache", "carried", "irregular",
)  # fmt: skip
#: With fewer steps, growth cannot be told from warming up.
LEAST_STEPS = 8
#: What rises fewer times than this in the last half of the steps is not called growth.
_LEAST_RISES = 3
#: What is replaced may differ in size at random: so many in a row that never shrink do not.
_LEAST_REPLACED = 8
#: Steps are looked at one by one up to so many, else so many of them, evenly.
_MOST_SAMPLES = 512
_GROUPS_AT_ONCE = 4096
_NEVER = np.iinfo(np.int64).max

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Growth:
    """How a group grows over the last half of the steps.

    Attributes:
        bytes_per_step: the median of the slopes between any two of its rises.
        rises, intervals: in how many of how many steps it rose (of runs of steps, where they are
            too many to look at each).
        every: about every which step; 1: each.
    """

    bytes_per_step: float
    rises: int
    intervals: int
    every: int


@dataclass(frozen=True)
class Site:
    """What a group of allocations leaves behind.

    Attributes:
        owner: told by most of what is kept; of kind "growth", of what the last half of the steps
            left.
        kind: "growth" (leaves bytes again and again that are never given back), "warm_up" (kept
            from the first half of the steps, nothing since), "cache" (kept over several steps, then
            replaced: level), "carried" (each step's replaced by the next) or "irregular" (more is
            kept than at half time, but it did not grow often, or evenly, enough to say that it
            will).
        kept_bytes, kept_blocks: live where the last step begins.
        early_bytes: of it from the first half of the steps.
        growth: of kind "growth".
    """

    owner: Owner
    kind: str
    kept_bytes: int
    kept_blocks: int
    early_bytes: int
    growth: Growth | None = None


@dataclass(frozen=True)
class StepLeft:
    """What one step, or a run of them, did.

    Attributes:
        first: its number, from 0; `count`: how many steps.
        born_bytes: allocated in it; `left_bytes`: of it still live when the step after it was over;
            `kept_bytes`: of it live where the last step begins.
    """

    first: int
    count: int
    seq: int
    born_bytes: int
    left_bytes: int
    kept_bytes: int


@dataclass(frozen=True)
class DeviceLeaks:
    """What the steps leave behind on one device.

    Attributes:
        before_bytes: live at the last step's begin, from before the first step (the model).
        kept_bytes: live there, from the steps; the sites' kept bytes sum to it.
        sites: every group that leaves something: growth first, the steepest first.
        total_bytes: how much memory the device has; None: not known (the CPU).
    """

    device: str
    before_bytes: int
    kept_bytes: int
    sites: tuple[Site, ...]
    steps: tuple[StepLeft, ...]
    total_bytes: int | None

    @property
    def growing(self) -> tuple[Site, ...]:
        return tuple(site for site in self.sites if site.kind == GROWTH)

    @property
    def bytes_per_step(self) -> float:
        """How fast the device fills."""
        return sum(site.growth.bytes_per_step for site in self.sites if site.growth is not None)

    @property
    def steps_until_full(self) -> int | None:
        """How many more steps fit at most; None: nothing grows, or no size of the device is known.

        An upper bound: what other processes hold is not known, nor what a step needs meanwhile.
        """
        if self.total_bytes is None or self.bytes_per_step <= 0:
            return None
        free = self.total_bytes - self.before_bytes - self.kept_bytes
        return max(int(free / self.bytes_per_step), 0)


@dataclass(frozen=True)
class Leaks:
    """What the steps of a process leave behind, device by device.

    Attributes:
        others: the other processes that have memory of these devices.
        stacks: frames by the keys of the sites, where grouped by stack.
    """

    process: Process
    by: str
    steps: Steps
    devices: tuple[DeviceLeaks, ...]
    others: tuple[Process, ...]
    stacks: dict[str, tuple[Frame, ...]]

    @property
    def enough_steps(self) -> bool:
        return len(self.steps) >= LEAST_STEPS


def find_leaks(
    trace: Trace,
    *,
    device: str | None = None,
    process: str | int | None = None,
    by: str = "source",
    stage: str | None = None,
) -> Leaks:
    """What each step of a process leaves behind.

    Args:
        device: only this one; every device of the process when left out.
        by: the column of `allocations` to group by.
        stage: what a step is: a stage of this name, instead of a call of a model.

    Raises:
        MemtraceError: nothing in the trace tells steps apart.
    """
    owner_columns(by)
    target = choose_target(trace, device=device, process=process, of="allocated")
    whose = target.process
    steps = find_steps(trace, whose, stage=stage)
    names = trace.devices_by_process[whose.key] if device is None else [device]
    devices = tuple(_device(trace, whose, name, steps, by) for name in names)
    keys = {site.owner.key for one in devices for site in one.sites}
    return Leaks(
        process=whose,
        by=by,
        steps=steps,
        devices=devices,
        others=tuple(p for p, _ in target.peaks if p.key != whose.key),
        stacks=stacks_of_groups(trace, whose.key, by, keys),
    )


def _device(trace: Trace, process: Process, device: str, steps: Steps, by: str) -> DeviceLeaks:
    stride = -(-len(steps) // _MOST_SAMPLES)
    # The first step's begin, where all that is told begins, and the last one's: how that ends is
    # not known.
    looked = np.union1d([0], np.arange(len(steps) - 1, -1, -stride))
    survivors = _survivors(trace, process.key, device, steps.start_seq[looked], by)
    rows, first, last = survivors.rows, survivors.first, survivors.last
    held = integers(rows, BYTES)
    end = len(looked) - 1
    at_end = last > end
    counts = np.diff(np.r_[looked, len(steps)])
    # Of the step after it nothing is known to be left before the step after that begins.
    left = np.bincount(first - 1, weights=np.where(last > first + 1, held, 0), minlength=end + 1)
    kept = np.bincount(first - 1, weights=np.where(at_end, held, 0), minlength=end + 1)
    return DeviceLeaks(
        device=device,
        before_bytes=survivors.before_bytes,
        kept_bytes=int(held[at_end].sum()),
        sites=_sites(rows, by, first, last, held, looked),
        steps=tuple(
            StepLeft(*map(int, row))
            for row in zip(
                looked, counts, steps.start_seq[looked], survivors.born, left, kept, strict=True
            )
        ),
        total_bytes=total_bytes(process, device),
    )


# ---- what is live where steps begin --------------------------------------------------------------


@dataclass(frozen=True)
class _Survivors:
    """Allocations of the steps that were live where some step began.

    `first` is the first such place of each, `last` one beyond the last; `born`: bytes allocated by
    the step that begins at each place, whether they lived or not.
    """

    rows: pa.Table
    first: Int64s
    last: Int64s
    born: Int64s
    before_bytes: int


def _survivors(trace: Trace, key: str, device: str, starts: Int64s, by: str) -> _Survivors:
    columns = list(dict.fromkeys(owner_columns(by)))
    schema = pa.schema([SCHEMAS["allocations"].field(name) for name in columns])
    tables = [schema.empty_table().append_column(BYTES, pa.array([], pa.int64()))]
    firsts, lasts = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    born = np.zeros(len(starts), np.int64)
    before = 0
    for group in trace.datasets["allocations"].row_groups(key):
        if not may_hold(group, "device", device):
            continue
        keys = group.read(
            ["device", "origin", "alloc_seq", "free_seq", "size_bytes", "block_bytes"]
        )
        chosen = equals(keys, "device", device) & counted(keys)
        held = integers(keys, "block_bytes", missing=-1)
        held = np.where(held < 0, integers(keys, "size_bytes"), held)
        # The event of a step's own number is its first one.
        first = np.searchsorted(starts, integers(keys, "alloc_seq"), side="right")
        last = np.searchsorted(starts, integers(keys, "free_seq", missing=_NEVER), side="right")
        before += int(held[chosen & (first == 0) & (last == len(starts))].sum())
        of_steps = chosen & (first > 0)
        np.add.at(born, first[of_steps] - 1, held[of_steps])
        lived = of_steps & (last > first)
        if not lived.any():
            continue
        rows = group.read(columns).filter(pa.array(lived))
        tables.append(rows.append_column(BYTES, pa.array(held[lived], pa.int64())))
        firsts.append(first[lived])
        lasts.append(last[lived])
    rows = StepNames(trace, key).tell(_concatenated(tables), [by])
    return _Survivors(rows, np.concatenate(firsts), np.concatenate(lasts), born, before)


def _concatenated(tables: list[pa.Table]) -> pa.Table:
    """Strings stay numbers: of millions of rows few are different."""
    if len(tables) == 1:
        return tables[0]
    return pa.concat_tables(tables[1:], promote_options="permissive").unify_dictionaries()


# ---- telling them apart --------------------------------------------------------------------------


def _sites(
    rows: pa.Table, by: str, first: Int64s, last: Int64s, held: Int64s, looked: Int64s
) -> tuple[Site, ...]:
    if not rows.num_rows:
        return ()
    codes, keys = group_codes(rows, by)
    places = len(looked)
    half = places // 2
    at_end = last >= places
    of_kept = owners(rows, by, codes, keys, np.where(at_end, held, 0))
    # One line may be both the optimizer's state, of the first step, and what is left by all.
    of_late = owners(rows, by, codes, keys, np.where(at_end & (first > half), held, 0))

    def sums(values: Any) -> Int64s:
        total = np.zeros(len(keys), np.int64)
        np.add.at(total, codes, values)
        return total

    kept = sums(np.where(at_end, held, 0))
    blocks = sums(at_end.astype(np.int64))
    early = sums(np.where(at_end & (first <= half), held, 0))
    # Of the last step that was looked at whole it is not known whether the next replaces it.
    late = sums(np.where(at_end & (first > half) & (first < places - 1), held, 0))
    longest = np.zeros(len(keys), np.int64)
    np.maximum.at(longest, codes, last - first)
    order = np.argsort(codes, kind="stable")
    sites = []
    for low in range(0, len(keys), _GROUPS_AT_ONCE):
        high = min(low + _GROUPS_AT_ONCE, len(keys))
        some = order[np.searchsorted(codes[order], low) : np.searchsorted(codes[order], high)]
        stay = some[at_end[some]]
        shape = (high - low, places)
        live = _live(codes[some] - low, first[some], last[some], held[some], shape)
        remains = _live(codes[stay] - low, first[stay], last[stay], held[stay], shape)
        for group in (low + np.flatnonzero(kept[low:high])).tolist():
            one, other = remains[group - low], live[group - low]
            growth = _growth(one, other, looked, of_late[group])
            if growth is not None:
                kind = GROWTH
            elif late[group] == 0:
                kind = WARM_UP if 2 * early[group] >= kept[group] else CARRIED
            elif longest[group] <= 1:
                kind = CARRIED
            else:
                risen = other[-1] - other[half]
                kind = IRREGULAR if 2 * risen >= kept[group] - early[group] else CACHE
            sites.append(
                Site(
                    owner=of_kept[group] if growth is None else of_late[group],
                    kind=kind,
                    kept_bytes=int(kept[group]),
                    kept_blocks=int(blocks[group]),
                    early_bytes=int(early[group]),
                    growth=growth,
                )
            )
    order_of = {kind: place for place, kind in enumerate((GROWTH, IRREGULAR, WARM_UP, CACHE))}
    return tuple(
        sorted(
            sites,
            key=lambda site: (
                order_of.get(site.kind, len(order_of)),
                -(site.growth.bytes_per_step if site.growth else 0),
                -site.kept_bytes,
                site.owner.name,
            ),
        )
    )


def _live(
    codes: Int64s, first: Int64s, last: Int64s, weight: Int64s, shape: tuple[int, int]
) -> Int64s:
    """How much of each group was live at each place; shape (groups, places)."""
    groups, places = shape
    deltas = np.zeros((groups, places + 1), np.int64)
    np.add.at(deltas, (codes, first), weight)
    np.subtract.at(deltas, (codes, last), weight)
    live: Int64s = np.cumsum(deltas, axis=1)[:, :-1]
    return live


def _growth(remains: Int64s, live: Int64s, looked: Int64s, owner: Owner) -> Growth | None:
    """Whether a group goes on growing in the last half, and by how much a step.

    Args:
        remains: at each place, what is live there and still where the last step begins.
        live: what is live there.
    """
    if looked[-1] + 1 < LEAST_STEPS:
        return None
    half = len(looked) // 2
    risen, added = live[-1] - live[half], remains[-1] - remains[half]
    found = _rising(remains[half:], looked[half:])
    if found is not None and 2 * risen >= added:
        return found
    replaced = live[half:]
    if len(replaced) < _LEAST_REPLACED or (np.diff(replaced) < 0).any():
        return None
    if owner.category == "kv_cache":  # of a request that is still being served
        return None
    return _rising(replaced, looked[half:])


def _rising(heights: Int64s, looked: Int64s) -> Growth | None:
    rises = np.flatnonzero(np.diff(heights) > 0) + 1
    intervals = len(heights) - 1
    if len(rises) < _LEAST_RISES:
        return None
    # To the end, and evenly: a cache that fills rises less and less, a warm-up no more.
    if len(np.unique((rises - 1) * 3 // intervals)) < 3:
        return None
    at = looked[rises].astype(np.float64)
    slope = _median_slope(at, heights[rises].astype(np.float64))
    gap = round(float(np.median(np.diff(rises))))
    every = 1 if gap <= 1 else round(float(np.median(np.diff(at))))
    return Growth(slope, len(rises), intervals, every)


def _median_slope(at: Floats, height: Floats) -> float:
    """Theil and Sen: the median of the slopes between all pairs; single jumps do not move it."""
    one, other = np.triu_indices(len(at), 1)
    return float(np.median((height[other] - height[one]) / (at[other] - at[one])))
