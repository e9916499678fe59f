"""The lines of a ledger: parts that add up to totals, gaps between totals, and what stands beside.

From the top, every total is the total above it (at first nothing) plus the parts and gaps between
the two, to the byte. A gap is what two counts differ by, so it may be negative. What was not
counted has no bytes and says why; the next gap then spans it.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass, replace

from memtrace.analyse.held import Held
from memtrace.analyse.readings import Reading, Readings
from memtrace.analyse.windows import Totals
from memtrace.categories import CATEGORIES

PART, GAP, TOTAL, BESIDE = "part", "gap", "total", "beside"

#: What has no category yet comes last.
NO_CATEGORY = "no_category"
#: A sample that is farther off than this is used only where no nearer one is.
_NEAR_NS = 1_000_000_000
_DEFAULT = "default"
_NOBODY_BESIDE = "no sampler beside the program"


@dataclass(frozen=True)
class Line:
    """One line.

    Attributes:
        name: a category, or one of those that report.stages puts in words.
        kind: "part", "gap" or "total" of the sum; "beside": in no sum, or part of a line above.
        size_bytes: None where it was not counted.
        why: the reason then.
        off_ns: how much later than the instant it was sampled (earlier: negative); None: it is
            exactly of the instant.
    """

    name: str
    kind: str
    size_bytes: int | None
    why: str | None = None
    off_ns: int | None = None


class _Sum:
    """The lines so far; a total makes the gap before it."""

    def __init__(self, time_ns: int) -> None:
        self.lines: list[Line] = []
        self._time_ns = time_ns
        self._total = 0

    def add(self, name: str, size_bytes: int, kind: str) -> None:
        self.lines.append(Line(name, kind, size_bytes))
        self._total += size_bytes

    def total(self, name: str, size_bytes: int, *, gap: str) -> None:
        self.add(gap, size_bytes - self._total, GAP)
        self.lines.append(Line(name, TOTAL, size_bytes))

    def sampled_total(self, name: str, reading: Reading, *, gap: str) -> None:
        self.total(name, reading.value_bytes, gap=gap)
        off_ns = reading.time_ns - self._time_ns
        self.lines[-2:] = [replace(line, off_ns=off_ns) for line in self.lines[-2:]]

    def beside(self, name: str, size_bytes: int) -> None:
        self.lines.append(Line(name, BESIDE, size_bytes))

    def sampled_beside(self, name: str, reading: Reading | None, why: str | None = None) -> None:
        if reading is not None:
            off_ns = reading.time_ns - self._time_ns
            self.lines.append(Line(name, BESIDE, reading.value_bytes, off_ns=off_ns))
        elif why is not None:
            self.lines.append(Line(name, BESIDE, None, why=why))

    def missing(self, name: str, why: str) -> None:
        self.lines.append(Line(name, TOTAL, None, why=why))


def gpu_lines(
    device: str,
    totals: Totals,
    time_ns: int,
    held: Held,
    readings: Readings,
    reserved_before: Callable[[int], int],
    graph_pools: Set[str] = frozenset(),
) -> tuple[Line, ...]:
    """A GPU at one instant: categories = allocated <= active <= reserved <= process <= device.

    Args:
        reserved_before: what was reserved at a place in the order of events, that of a sample.
        graph_pools: those into which graphs were captured.
    """
    found = _Sum(time_ns)
    _add_categories(found, held)
    found.total("allocated", totals.allocated_bytes, gap="unmatched")
    found.total("active", totals.active_bytes, gap="awaiting_stream")
    unused = totals.reserved_bytes - totals.active_bytes
    found.add("split_remainders", unused - held.whole_free_bytes, GAP)
    found.total("reserved", totals.reserved_bytes, gap="cached_segments")
    process = _best(
        readings.around(device, "process", time_ns), time_ns, totals.reserved_bytes, reserved_before
    )
    used = readings.nearest(device, "used", process.time_ns if process else time_ns)
    whole = readings.nearest(device, "total", process.time_ns if process else time_ns)
    if process or used:
        sample = process or used
        assert sample is not None
        between = reserved_before(sample.seq) - totals.reserved_bytes
        if between:  # until the sample, or since
            found.add("reserved_between", between, GAP)
    if process:
        found.sampled_total("process", process, gap="context")
    else:
        found.missing("process", _why_no_process(device, readings, used))
    if used and whole:
        found.sampled_total("device_used", used, gap="others" if process else "context_and_others")
        found.total("device_total", whole.value_bytes, gap="device_free")
    else:
        found.missing("device_used", _why_no_device(device, readings))
    ours = [sums for kind, sums in held.kinds.items() if not kind.external]
    found.beside("rounding", sum(sums.block_bytes - sums.size_bytes for sums in ours))
    _add_pools(found, held, graph_pools)
    return tuple(found.lines)


def _add_pools(found: _Sum, held: Held, graph_pools: Set[str]) -> None:
    reserved = {"graph_pools": 0, "mempools": 0}
    allocated = dict(reserved)
    sizes = [(pool, size, reserved) for pool, size in held.pools.items()]
    sizes += [(k.pool or _DEFAULT, sums.block_bytes, allocated) for k, sums in held.kinds.items()]
    for pool, size, sums_of in sizes:
        if pool != _DEFAULT:
            is_graphs = pool.startswith("graph:") or pool in graph_pools
            sums_of["graph_pools" if is_graphs else "mempools"] += size
    for name, size in reserved.items():
        if size or allocated[name]:
            found.beside(f"{name}_reserved", size)
            found.beside(f"{name}_allocated", allocated[name])


def _why_no_process(device: str, readings: Readings, used: Reading | None) -> str:
    why = readings.why_unavailable(device)
    if why:
        return why
    if used is not None and readings.from_outside:
        return "the driver lists no memory of this process: a container may hide it"
    return _why_no_device(device, readings)


def _why_no_device(device: str, readings: Readings) -> str:
    why = readings.why_unavailable(device)
    return why or ("it ended too soon" if readings.from_outside else _NOBODY_BESIDE)


def cpu_lines(
    totals: Totals,
    time_ns: int,
    held: Held,
    readings: Readings,
    tensors_before: Callable[[int], int],
    *,
    not_recorded: str | None = None,
) -> tuple[Line, ...]:
    """The CPU at one instant: tensors - what of them is not resident + all other = RSS.

    Args:
        tensors_before: bytes of tensors at a place in the order of events, that of a sample.
        not_recorded: why tensors of the CPU are not in the trace at all.
    """
    found = _Sum(time_ns)
    tensors = totals.allocated_bytes + external_bytes(held)
    if not_recorded:
        found.missing("tensors", not_recorded)
    else:
        _add_categories(found, held)
        found.total("tensors", tensors, gap="unmatched")
    outside = {kind: sums for kind, sums in held.kinds.items() if kind.external}
    rss = _best(readings.around("host", "rss", time_ns), time_ns, tensors, tensors_before)
    if rss:
        between = tensors_before(rss.seq) - tensors
        if between:
            found.add("tensors_between", between, GAP)
        absent = sum(s.block_bytes - s.resident_bytes - s.unknown_bytes for s in outside.values())
        if absent:
            found.add("not_resident", -absent, GAP)
        found.sampled_total("rss", rss, gap="python_and_other")
    else:
        found.missing("rss", _NOBODY_BESIDE)
    pinned = sum(s.block_bytes for kind, s in held.kinds.items() if kind.memory == "pinned")
    if pinned:
        found.beside("pinned", pinned)
    for memory in sorted({kind.memory or "host" for kind in outside}):
        sums = [s for kind, s in outside.items() if (kind.memory or "host") == memory]
        found.beside(f"external_{memory}", sum(s.block_bytes for s in sums))
    unknown = sum(s.unknown_bytes for s in outside.values())
    if unknown:
        found.beside("residency_unknown", unknown)
    why = None if readings.from_outside else _NOBODY_BESIDE
    for metric in ("pss", "uss"):
        found.sampled_beside(metric, readings.nearest("host", metric, time_ns), why)
    usage = readings.nearest("container", "usage", time_ns)
    found.sampled_beside("container_usage", usage, "no memory cgroup")
    for metric in ("inactive_file", "peak", "limit"):
        reading = readings.nearest("container", metric, time_ns)
        found.sampled_beside(f"container_{metric}", reading)
    return tuple(found.lines)


def _best(
    around: list[Reading], time_ns: int, held: int, held_before: Callable[[int], int]
) -> Reading | None:
    """The sample before or after an instant: that at which torch held most nearly the same."""
    near = [reading for reading in around if abs(reading.time_ns - time_ns) <= _NEAR_NS]

    def distance(reading: Reading) -> tuple[int, int]:
        differs = abs(held_before(reading.seq) - held) if near else 0
        return differs, abs(reading.time_ns - time_ns)

    return min(near or around, key=distance, default=None)


def external_bytes(held: Held) -> int:
    """Memory of tensors that torch's allocator did not give."""
    return sum(sums.block_bytes for kind, sums in held.kinds.items() if kind.external)


def _add_categories(found: _Sum, held: Held) -> None:
    by_category: dict[str, int] = {}
    for kind, sums in held.kinds.items():
        name = kind.category or NO_CATEGORY
        by_category[name] = by_category.get(name, 0) + sums.block_bytes
    known = [*CATEGORIES, *sorted(by_category.keys() - {*CATEGORIES, NO_CATEGORY}), NO_CATEGORY]
    for name in known:
        if by_category.get(name):
            found.add(name, by_category[name], PART)
