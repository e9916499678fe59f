"""Two traces compared: who holds more at the peak, at the ends of stages, and in each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from memtrace.analyse.breakdown import GROUP, GROUPINGS, UNATTRIBUTED, UNMATCHED, UNUSED
from memtrace.analyse.counters import moment_at_seq, settled
from memtrace.analyse.owner_sums import OwnerSums, read_owner_sums
from memtrace.analyse.same_owners import same_owners
from memtrace.analyse.stage_list import Stage, stages_of
from memtrace.analyse.target import Target, choose_target, why_empty
from memtrace.analyse.windows import END, read_windows
from memtrace.errors import MemtraceError
from memtrace.trace import Process, Trace, device_order

#: What owners can be told by that means the same in two traces.
DIFF_BY = (
    "category", "module", "operator", "source", "label", "stack", "top_operator",
    "forward_operator", "module_class", "phase", "stage", "memory", "pool", "origin",
)  # fmt: skip
NEW, GONE, GROWN, SHRUNK, SAME = "new", "gone", "grown", "shrunk", "same"
PEAK, STAGE_END, STEP = "peak", "stage_end", "step"
EXCESS = "excess"
_STAGES_COMPARED = 20

#: Bytes; of steps, bytes per step.
Amount: TypeAlias = int | Fraction
_Owner: TypeAlias = tuple[str, str]  # kind, key
_Held: TypeAlias = tuple[Amount, Amount]  # bytes, blocks


@dataclass(frozen=True)
class Change:
    """An owner in both traces.

    Attributes:
        kind: as of a Row of a breakdown; "excess": what rows hold beyond the device's own total,
            below zero.
        key: what B calls it; A where it is gone. `was`: what A calls it, where that is different.
        a_bytes, b_bytes, a_blocks, b_blocks: 0 where it has none.
    """

    kind: str
    key: str
    was: str | None
    a_bytes: Amount
    b_bytes: Amount
    a_blocks: Amount
    b_blocks: Amount

    @property
    def delta_bytes(self) -> Amount:
        return self.b_bytes - self.a_bytes

    @property
    def distance_bytes(self) -> Fraction:
        """How far the two are apart."""
        return abs(Fraction(self.delta_bytes))

    @property
    def status(self) -> str:
        if not self.a_blocks and not self.a_bytes:
            return NEW
        if not self.b_blocks and not self.b_bytes:
            return GONE
        if self.delta_bytes == 0:
            return SAME
        return GROWN if self.delta_bytes > 0 else SHRUNK


@dataclass(frozen=True)
class Comparison:
    """What a device held at one instant of either trace, or was allocated in a step on average.

    Attributes:
        what: "peak"; "stage_end": at the end of a stage; "step": of the steps of a kind.
        name: the stage's, or the kind of step.
        a_bytes, b_bytes: the changes of each grouping sum to them exactly.
        a_steps, b_steps: how many steps the mean is of.
        a_time_ns, b_time_ns: of an instant.
        changes: by what they are grouped by, the largest difference first.
    """

    what: str
    name: str
    a_bytes: Amount
    b_bytes: Amount
    changes: dict[str, tuple[Change, ...]]
    a_steps: int = 0
    b_steps: int = 0
    a_time_ns: int | None = None
    b_time_ns: int | None = None

    @property
    def delta_bytes(self) -> Amount:
        return self.b_bytes - self.a_bytes


@dataclass(frozen=True)
class DeviceDiff:
    """A device that both traces used.

    Attributes:
        a, b: the process in either whose peak on it is the largest.
        stages_left_out: stages of both, each of another name, that are not among `stage_ends`.
        only_a, only_b: stages and kinds of steps that the other has not, in words.
    """

    device: str
    a: Process
    b: Process
    peak: Comparison
    stage_ends: tuple[Comparison, ...]
    steps: tuple[Comparison, ...]
    stages_left_out: int
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]


@dataclass(frozen=True)
class Missing:
    """A device that only one of the traces has; `recorded`: the other would have recorded it."""

    device: str
    peak_bytes: int
    recorded: bool


@dataclass(frozen=True)
class Diff:
    """B compared with A; `by`: what owners are told by, of what was compared."""

    a: Trace
    b: Trace
    of: str
    by: tuple[str, ...]
    devices: tuple[DeviceDiff, ...]
    only_a: tuple[Missing, ...]
    only_b: tuple[Missing, ...]


def make_diff(
    a: Trace,
    b: Trace,
    *,
    by: Sequence[str] = ("category",),
    of: str = "allocated",
    device: str | None = None,
) -> Diff:
    """Compares two traces, of the same program or not.

    Args:
        device: only this one; all that either has when left out.

    Raises:
        MemtraceError: a trace has no events, neither has the device, or there is none of which
            the measure is known.
    """
    for column in by:
        if column not in DIFF_BY:
            raise MemtraceError(f"no comparison by {column}; there are {', '.join(DIFF_BY)}")
    for trace in (a, b):
        if not trace.devices:
            raise MemtraceError(f"{trace.path}: {why_empty(trace)}")
    names = sorted({*a.devices, *b.devices}, key=device_order)
    if device is not None and device not in names:
        raise MemtraceError(f"no memory of {device} in either trace; they have {', '.join(names)}")
    found = [
        (name, _target(a, name, of), _target(b, name, of))
        for name in names
        if device in (None, name)
    ]
    if all(x is None and y is None for _, x, y in found):
        raise MemtraceError(f"no {of} bytes were recorded of {' or '.join(n for n, _, _ in found)}")
    both = [(x, y) for _, x, y in found if x is not None and y is not None]
    return Diff(
        a, b, of, tuple(by),
        devices=tuple(_compare(a, b, x, y, of, tuple(by)) for x, y in both),
        only_a=tuple(_missing(name, x, b) for name, x, y in found if x is not None and y is None),
        only_b=tuple(_missing(name, y, a) for name, x, y in found if y is not None and x is None),
    )  # fmt: skip


def _target(trace: Trace, device: str, of: str) -> Target | None:
    if device not in trace.devices:
        return None
    if of == "reserved" and device == "cpu":
        return None
    return choose_target(trace, device=device, process=None, of=of)


def _missing(device: str, target: Target, other: Trace) -> Missing:
    rows = [process.row for process in other.process_list]
    recorded = device != "cpu" or not all(row.get("cpu_on") is False for row in rows)
    return Missing(device, target.highest.total_bytes, recorded)


@dataclass(frozen=True)
class _Side:
    """What is compared of one trace.

    Attributes:
        peak_seq: the place of the peak.
        stages: of both traces' names, the last stage of each.
        totals: of the device at the instants, by their place; None: it has none of the measure.
    """

    target: Target
    peak_seq: int
    peak_ns: int
    stages: dict[str, Stage]
    sums: OwnerSums
    totals: dict[int, int | None]


def _compare(
    a: Trace, b: Trace, left: Target, right: Target, of: str, by: tuple[str, ...]
) -> DeviceDiff:
    stages = [_stages(trace, target.process) for trace, target in ((a, left), (b, right))]
    shared = [name for name in stages[1] if name in stages[0]]
    compared = shared[:_STAGES_COMPARED]
    x, y = (
        _side(trace, target, of, by, {name: own[name] for name in compared})
        for trace, target, own in zip((a, b), (left, right), stages, strict=True)
    )
    kinds = [kind for kind in y.sums.step_counts if kind in x.sums.step_counts]
    only = [
        tuple(
            [f"stage {name}" for name in own if name not in shared]
            + [f"{kind} steps" for kind in side.sums.step_counts if kind not in kinds]
        )
        for own, side in zip(stages, (x, y), strict=True)
    ]
    return DeviceDiff(
        device=left.device,
        a=left.process,
        b=right.process,
        peak=_instant(PEAK, "", x, y, (x.peak_seq, y.peak_seq), (x.peak_ns, y.peak_ns), of, by),
        stage_ends=tuple(_stage_end(name, x, y, of, by) for name in compared),
        steps=tuple(_step(kind, x, y, by) for kind in kinds),
        stages_left_out=len(shared) - len(compared),
        only_a=only[0],
        only_b=only[1],
    )


def _stages(trace: Trace, process: Process) -> dict[str, Stage]:
    """Of each name the last stage, in the order of the first."""
    return {stage.name: stage for stage in stages_of(trace, process) if stage.kind != "whole"}


def _side(
    trace: Trace, target: Target, of: str, by: tuple[str, ...], stages: dict[str, Stage]
) -> _Side:
    key, device = target.process.key, target.device
    cuts = [stage.end_seq for stage in stages.values()]
    windows = read_windows(trace, key, [device], [*cuts, END])[device]
    totals: dict[int, int | None] = {}
    for cut in cuts:
        held = windows.before(cut)
        totals[cut - 1] = None if of == "requested" else getattr(held, f"{of}_bytes")
    first = moment_at_seq(trace, process=key, device=device, seq=target.highest.seq)
    peak = settled(trace, first)
    totals[peak.seq] = target.highest.total_bytes
    sums = read_owner_sums(trace, target.process, device, of=of, by=by, seqs=totals)
    return _Side(target, peak.seq, peak.time_ns, stages, sums, totals)


def _stage_end(name: str, x: _Side, y: _Side, of: str, by: tuple[str, ...]) -> Comparison:
    ends = x.stages[name], y.stages[name]
    seqs = (ends[0].end_seq - 1, ends[1].end_seq - 1)
    times = (ends[0].end_time_ns, ends[1].end_time_ns)
    return _instant(STAGE_END, name, x, y, seqs, times, of, by)


def _instant(
    what: str,
    name: str,
    x: _Side,
    y: _Side,
    seqs: tuple[int, int],
    times: tuple[int, int],
    of: str,
    by: tuple[str, ...],
) -> Comparison:
    sides = [_owners(side, seq, of, by) for side, seq in zip((x, y), seqs, strict=True)]
    (a_bytes, a_owners), (b_bytes, b_owners) = sides
    changes = {column: _changes(column, a_owners[column], b_owners[column]) for column in by}
    return Comparison(what, name, a_bytes, b_bytes, changes, a_time_ns=times[0], b_time_ns=times[1])


def _step(kind: str, x: _Side, y: _Side, by: tuple[str, ...]) -> Comparison:
    counts: list[int] = []
    owners: list[dict[str, dict[_Owner, _Held]]] = []
    for side in (x, y):
        number, sums = side.sums.step_counts[kind], side.sums.steps[kind]
        counts.append(number)
        owners.append(
            {
                column: {
                    _named(column, key): (Fraction(total, number), Fraction(blocks, number))
                    for key, (total, blocks) in sums.by.get(column, {}).items()
                }
                for column in by
            }
        )
    changes = {column: _changes(column, owners[0][column], owners[1][column]) for column in by}
    a_bytes, b_bytes = (
        sum((size for size, _ in own[by[0]].values()), Fraction()) for own in owners
    )
    return Comparison(STEP, kind, a_bytes, b_bytes, changes, a_steps=counts[0], b_steps=counts[1])


def _owners(
    side: _Side, seq: int, of: str, by: tuple[str, ...]
) -> tuple[int, dict[str, dict[_Owner, _Held]]]:
    """The device's total, and per grouping what of it each owner holds: its parts."""
    sums = side.sums.at[seq].by
    held = sum(size for size, _ in sums.get(by[0], {}).values())
    counted = side.totals[seq]
    total = held if counted is None else counted
    beyond: dict[_Owner, _Held] = {}
    if of == "reserved" and total > held:
        beyond[UNUSED, "reserved, held by no block"] = (total - held, 0)
    elif total > held:
        beyond[UNMATCHED, "in no recorded allocation"] = (total - held, 0)
    elif total < held:
        beyond[EXCESS, "more than the device's total"] = (total - held, 0)
    owners = {
        column: {_named(column, key): each for key, each in sums.get(column, {}).items()} | beyond
        for column in by
    }
    return total, owners


def _named(column: str, key: str | None) -> _Owner:
    return (UNATTRIBUTED, GROUPINGS[column]) if key is None else (GROUP, key)


def _changes(by: str, a: dict[_Owner, _Held], b: dict[_Owner, _Held]) -> tuple[Change, ...]:
    keys = [[key for kind, key in owners if kind == GROUP] for owners in (a, b)]
    renamed = same_owners(by, *keys)
    taken = set(renamed.values())
    nothing: _Held = (0, 0)
    changes, left = [], dict(b)
    for (kind, old), held in a.items():
        # A name that stands for another owner in B is not this one's there.
        alone = kind == GROUP and old not in renamed and old in taken
        key = renamed.get(old, old) if kind == GROUP else old
        other = nothing if alone else left.pop((kind, key), nothing)
        changes.append(Change(kind, key, old if old != key else None, *_amounts(held, other)))
    for (kind, key), held in left.items():
        changes.append(Change(kind, key, None, *_amounts(nothing, held)))
    return tuple(sorted(changes, key=_largest))


def _amounts(a: _Held, b: _Held) -> tuple[Amount, Amount, Amount, Amount]:
    return a[0], b[0], a[1], b[1]


def _largest(change: Change) -> tuple[Fraction, Fraction, str, str]:
    most = Fraction(max(change.a_bytes, change.b_bytes))
    return (-change.distance_bytes, -most, change.kind, change.key)
