"""The peaks of runs that differ in one number: their curve, its fit, and the largest that holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from memtrace.analyse.counters import Int64s, equals, integers, may_hold
from memtrace.analyse.failures import list_ooms
from memtrace.analyse.ledger import make_ledger
from memtrace.analyse.target import choose_target, total_bytes
from memtrace.fit.context import find_context
from memtrace.trace import Process, Trace

#: A straight line that is off by more is no straight line, where there are points to show it.
_STRAIGHT = 0.01
_PROVEN_FROM = 3
#: Of a value.
MOST = 1 << 24


@dataclass(frozen=True)
class Use:
    """One device in one run, in bytes; what torch took of it. None: not known.

    Attributes:
        idle_bytes: allocated before the first call of a model.
        peak_bytes, reserved_bytes: the largest of allocated and reserved; the CPU reserves nothing.
        called_bytes: the largest, from the first call on, of what decides whether it fits: reserved
            on an accelerator, allocated on the CPU.
        usable_bytes: the device's total less the CUDA context.
    """

    device: str
    idle_bytes: int | None
    peak_bytes: int
    reserved_bytes: int | None
    called_bytes: int
    usable_bytes: int | None

    @property
    def needed_bytes(self) -> int:
        """What decides whether it fits."""
        return self.peak_bytes if self.reserved_bytes is None else self.reserved_bytes


@dataclass(frozen=True)
class Run:
    """One run of the program.

    Attributes:
        values: what was set: {"batch": 4}.
        trace_path: None: nothing was recorded.
        failed: why it is no point of the curve, in words; "": it ended well.
        batch_sizes: of its calls of models.
    """

    values: dict[str, int]
    trace_path: Path | None
    failed: str
    out_of_memory: bool
    uses: tuple[Use, ...]
    batch_sizes: tuple[int, ...]


@dataclass(frozen=True)
class Line:
    """bytes = fixed + each x value + squared x value^2; `residual`: the most it is off, of 1.

    `points`: how many it was made from: with as many as it has parts nothing is left to prove it.
    """

    fixed_bytes: float
    each_bytes: float
    squared_bytes: float
    residual: float
    points: int

    def at(self, value: int) -> float:
        """Bytes."""
        return self.fixed_bytes + self.each_bytes * value + self.squared_bytes * value * value

    @property
    def proven(self) -> bool:
        """Whether there were more points than parts."""
        return self.points > (3 if self.squared_bytes else 2)


@dataclass(frozen=True)
class Curve:
    """One device over one dimension.

    Attributes:
        dimension: what varies: "batch" or "sequence".
        held: what is set beside it, the same in all these runs.
        line: None: fewer than two runs ended well.
        capacity_bytes: what torch may take of the device; None: not known.
        largest: the largest value that fits; None: there is no line or no capacity, or no limit.
    """

    device: str
    dimension: str
    held: dict[str, int]
    runs: tuple[Run, ...]
    line: Line | None
    capacity_bytes: int | None
    largest: int | None

    def use(self, run: Run) -> Use | None:
        """Of this device in a run."""
        return next((use for use in run.uses if use.device == self.device), None)


def read_run(
    trace: Trace, values: dict[str, int], *, failed: str, device: str | None = None
) -> Run:
    """What a run used of its devices; `failed`: how it ended, in words, where it did not end well.

    Args:
        device: only this one.
    """
    uses = [_use(trace, name) for name in trace.devices if device in (None, name)]
    ooms = list_ooms(trace)
    if ooms:
        ended = f"{failed}: " if failed else ""
        failed = f"{ended}out of memory of {ooms[-1].device}{'' if failed else ', and went on'}"
    sizes = {size for size in trace.steps.column("batch_size").to_pylist() if size is not None}
    return Run(values, trace.path, failed, bool(ooms), tuple(uses), tuple(sorted(sizes)))


def curves(
    runs: Sequence[Run], dimension: str, *, capacity_bytes: int | None = None
) -> tuple[Curve, ...]:
    """One for each device and for each value of what else was set."""
    devices = list(dict.fromkeys(use.device for run in runs for use in run.uses))
    others = [{k: v for k, v in run.values.items() if k != dimension} for run in runs]
    found = []
    for held in [other for i, other in enumerate(others) if other not in others[:i]]:
        chosen = [run for run, other in zip(runs, others, strict=True) if other == held]
        chosen.sort(key=lambda run: run.values[dimension])
        found += [_curve(chosen, dimension, held, name, capacity_bytes) for name in devices]
    return tuple(found)


def fit_line(values: Sequence[int], sizes: Sequence[int]) -> Line | None:
    """The straight line, or a curve where the points show one; None: fewer than two values."""
    if len(set(values)) < 2:
        return None
    straight = _solved(values, sizes, 1)
    if straight.residual > _STRAIGHT and len(set(values)) >= _PROVEN_FROM:
        curved = _solved(values, sizes, 2)
        if curved.squared_bytes > 0 and curved.residual < straight.residual:
            return curved
    return straight


def _solved(values: Sequence[int], sizes: Sequence[int], power: int) -> Line:
    x, y = np.array(values, np.float64), np.array(sizes, np.float64)
    scaled = x / x.max()
    terms = np.stack([scaled**i for i in range(power + 1)], axis=1)
    found = np.linalg.lstsq(terms, y, rcond=None)[0]
    parts = [float(part / x.max() ** i) for i, part in enumerate(found)] + [0.0]
    off = np.abs(terms @ found - y) / np.maximum(y, 1)
    return Line(parts[0], parts[1], parts[2], float(off.max()), len(values))


def _curve(
    runs: list[Run], dimension: str, held: dict[str, int], device: str, capacity: int | None
) -> Curve:
    points = [
        (run.values[dimension], use)
        for run in runs
        for use in run.uses
        if use.device == device and not run.failed
    ]
    line = fit_line([value for value, _ in points], [use.called_bytes for _, use in points])
    known = [use.usable_bytes for run in runs for use in run.uses if use.device == device]
    own = next((size for size in known if size is not None), None)
    total = own if capacity is None else capacity
    most = None if line is None or total is None else _largest(line, points, total)
    if most is not None and capacity is None:  # on this very device more is known
        failed = [run.values[dimension] for run in runs if run.failed and run.out_of_memory]
        most = max(most, *(value for value, _ in points))
        most = min([most, *(value - 1 for value in failed)])
    return Curve(device, dimension, held, tuple(runs), line, total, most)


def _largest(line: Line, points: list[tuple[int, Use]], capacity: int) -> int | None:
    """None: nothing grows."""
    # What loading takes is needed whatever the value.
    loads = [use.needed_bytes for _, use in points if use.needed_bytes > use.called_bytes]
    if min(loads, default=0) > capacity:
        return 0
    if round(line.at(MOST)) <= capacity:
        return None
    holds, fails = 0, MOST
    while fails - holds > 1:
        middle = (holds + fails) // 2
        holds, fails = (middle, fails) if round(line.at(middle)) <= capacity else (holds, middle)
    return holds


def _use(trace: Trace, device: str) -> Use:
    target = choose_target(trace, device=device, process=None, of="allocated")
    process = target.process
    ledger = make_ledger(trace, device=device, process=process.key).devices[0]
    seq, allocated, reserved = _totals(trace, process, device)
    deciding = allocated if device == "cpu" else reserved
    starts = trace.datasets["steps"].read(["start_seq"], key=process.key)
    first = min(integers(starts, "start_seq"), default=0)
    called = deciding[max(int(np.searchsorted(seq, first)) - 1, 0) :]
    return Use(
        device=device,
        idle_bytes=ledger.idle_bytes,
        peak_bytes=int(allocated.max(initial=0)),
        reserved_bytes=None if device == "cpu" else int(reserved.max(initial=0)),
        called_bytes=int(called.max(initial=0)),
        usable_bytes=_usable_bytes(trace, process, device),
    )


def _totals(trace: Trace, process: Process, device: str) -> tuple[Int64s, Int64s, Int64s]:
    columns = ["seq", "allocated_bytes", "reserved_bytes"]
    parts: list[list[Int64s]] = [[np.empty(0, np.int64)] for _ in columns]
    for group in trace.datasets["events"].row_groups(process.key):
        if not may_hold(group, "device", device):
            continue
        table = group.read(["device", *columns])
        mine = equals(table, "device", device)
        for part, name in zip(parts, columns, strict=True):
            part.append(integers(table, name)[mine])
    seq, allocated, reserved = (np.concatenate(part) for part in parts)
    return seq, allocated, reserved


def _usable_bytes(trace: Trace, process: Process, device: str) -> int | None:
    total = total_bytes(process, device)
    return None if total is None else total - find_context(trace, process, device).high_bytes
