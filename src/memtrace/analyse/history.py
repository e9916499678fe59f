"""What a process did with its devices, in bounded size: curves, sums between instants, and the
allocations that matter most one by one. A few passes over the trace, however long it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from memtrace.analyse.counters import (
    Int64s,
    counted,
    equals,
    highest,
    integers,
    may_hold,
    moment_at_seq,
    settled,
)
from memtrace.analyse.curve import Curve, read_curves
from memtrace.analyse.failures import find_failures
from memtrace.analyse.instants import Instants, choose_instants, name_steps
from memtrace.analyse.layers import Layers, LayerSums
from memtrace.analyse.lifespans import (
    TOLD,
    Cuts,
    Lifespans,
    LifespanSums,
    Sites,
    make_cuts,
)
from memtrace.analyse.listing import COLUMNS, Listing, choose_listings, ends
from memtrace.analyse.live_set import BYTES, weights
from memtrace.analyse.stage_list import Stage, Steps, stages_of, steps_of
from memtrace.analyse.step_names import StepNames
from memtrace.analyse.windows import Windows, read_windows
from memtrace.schema import SCHEMAS
from memtrace.trace import Process, Trace

SITE = "site"
#: Columns of the allocations that are told one by one, beside their SITE and BYTES.
ROW_COLUMNS = (
    "allocation_id", "address", "size_bytes", "alloc_seq", "free_seq", "release_seq",
    "alloc_time_ns", "free_time_ns", "stack_id", "label", "thread_id", "stream", "step", "phase",
    "memory", "pool",
)  # fmt: skip
_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Limits:
    """How large the history of a device may be.

    Attributes:
        bins: of a curve; spans: rows of sums; rows: allocations one by one.
        large_bytes: those of so much are told one by one in any case; None: as there is room.
    """

    bins: int = 65_536
    spans: int = 600_000
    rows: int = 200_000
    large_bytes: int | None = None

    def share(self, number: int) -> Limits:
        """As much for so many devices together, but for a least that each has."""
        number = max(number, 1)
        return Limits(
            max(self.bins // number, 512),
            max(self.spans // number, 4_000),
            max(self.rows // number, 4_000),
            self.large_bytes,
        )


@dataclass(frozen=True)
class DeviceHistory:
    """One device.

    Attributes:
        allocated_bytes, reserved_bytes: the device's totals at the cuts of `lifespans`.
        layers: who held it at the finer `layer_cuts`, by columns of lifespans.TOLD.
        rows: the allocations told one by one (ROW_COLUMNS, SITE, BYTES), in the order of alloc_seq.
        allocations: how many there were in all.
        unmatched_bytes: at each cut, what the total has beyond the sum over allocations.
    """

    device: str
    curve: Curve
    instants: Instants
    lifespans: Lifespans
    allocated_bytes: Int64s
    reserved_bytes: Int64s
    unmatched_bytes: Int64s
    layers: dict[str, Layers]
    layer_cuts: Cuts
    listing: Listing
    rows: pa.Table
    allocations: int


@dataclass(frozen=True)
class History:
    """One process; devices in the order that was asked for, without those that had no event.

    Attributes:
        step_peaks: by device, the peak of allocated in each step.
    """

    process: Process
    devices: tuple[DeviceHistory, ...]
    sites: list[tuple[str | None, ...]]
    stages: list[Stage]
    steps: Steps
    step_peaks: dict[str, Int64s]


def read_history(
    trace: Trace,
    process: Process,
    devices: list[str],
    limits: Limits,
    *,
    window_ns: tuple[int, int] | None = None,
) -> History | None:
    """Reads a process's events three times and its allocations twice, a few columns at a time.

    Args:
        window_ns: only from and to these times; what was live before is part of it.

    Returns:
        None: no event of these devices lies in the window.
    """
    key = process.key
    curves = read_curves(trace, key, devices, most_bins=limits.bins, window_ns=window_ns)
    if not curves:
        return None
    stages, steps = stages_of(trace, process), steps_of(trace, process)
    edges = np.array([[stage.start_seq, stage.end_seq] for stage in stages], np.int64).ravel()
    edges = np.concatenate([edges, steps.start_seq, steps.end_seq])
    windows = read_windows(trace, key, list(curves), edges.tolist())
    instants = {
        device: choose_instants(
            curve,
            windows[device],
            is_part=window_ns is not None,
            reserved_peak=_reserved_peak(trace, key, device, curve, window_ns),
            failures=find_failures(trace, device=device, process=key),
            stages=stages,
            steps=steps,
        )
        for device, curve in curves.items()
    }
    names = StepNames(trace, key)
    instants = {device: name_steps(found, names) for device, found in instants.items()}
    begins = {d: -1 if window_ns is None else curve.first_seq for d, curve in curves.items()}
    listings = choose_listings(
        trace,
        key,
        {device: _distinct_seqs(found) for device, found in instants.items()},
        needed={device: found.needed for device, found in instants.items()},
        between={d: (begins[d], int(curve.last_seq[-1])) for d, curve in curves.items()},
        most_rows=limits.rows,
        large_bytes=limits.large_bytes,
    )
    sites = Sites()
    readers = {}
    for device, curve in curves.items():
        cuts = make_cuts(curve, *_anchors(curve, instants[device], begins[device]))
        sums, layers = LifespanSums(cuts, limits.spans), LayerSums(cuts, sites)
        readers[device] = _Reader(device, sums, layers, listings[device])
    _read_allocations(trace, key, readers, sites)
    spans = {device: reader.lifespans() for device, reader in readers.items()}
    after = np.unique(np.concatenate([found.cuts.seq + 1 for found in spans.values()]))
    totals = read_windows(trace, key, list(curves), after.tolist())
    return History(
        process,
        tuple(
            readers[d].history(curve, instants[d], totals[d], spans[d])
            for d, curve in curves.items()
        ),
        sites.rows,
        stages,
        steps,
        {d: windows[d].peaks(steps.start_seq, steps.end_seq) for d in curves},
    )


def _read_allocations(trace: Trace, key: str, readers: dict[str, _Reader], sites: Sites) -> None:
    for group in trace.datasets["allocations"].row_groups(key):
        held = [device for device in readers if may_hold(group, "device", device)]
        if not held:
            continue
        table = group.read(list(dict.fromkeys([*COLUMNS, *ROW_COLUMNS, *TOLD])))
        ours = counted(table)
        table = table.append_column(SITE, pa.array(sites.numbers(table)))
        for device in held:
            readers[device].add(table.filter(pa.array(equals(table, "device", device) & ours)))


class _Reader:
    """Adds up the allocations of one device, and keeps those that are told one by one."""

    def __init__(
        self, device: str, sums: LifespanSums, layers: LayerSums, listing: Listing
    ) -> None:
        self._device = device
        self._sums = sums
        self._layers = layers
        self._listing = listing
        self._tables: list[pa.Table] = []
        self._allocations = 0

    def add(self, table: pa.Table) -> None:
        size_bytes = weights(table, of="allocated")
        alloc_seq = integers(table, "alloc_seq", missing=_NEVER)
        free_seq = integers(table, "free_seq", missing=_NEVER)
        self._allocations += table.num_rows
        for sums in (self._sums, self._layers):
            sums.add(integers(table, SITE), alloc_seq, free_seq, size_bytes)
        chosen = self._listing.chosen(size_bytes, alloc_seq, ends(table, self._device))
        if chosen.any():
            kept = table.select([*ROW_COLUMNS, SITE]).append_column(BYTES, pa.array(size_bytes))
            self._tables.append(kept.filter(pa.array(chosen)))

    def lifespans(self) -> Lifespans:
        return self._sums.lifespans()

    def history(
        self, curve: Curve, instants: Instants, windows: Windows, lifespans: Lifespans
    ) -> DeviceHistory:
        totals = [windows.before(seq + 1) for seq in lifespans.cuts.seq.tolist()]
        allocated = np.array([total.allocated_bytes for total in totals], np.int64)
        peak = int(curve.most_seq[curve.peak])
        rows = pa.concat_tables(self._tables or [_no_rows()]).unify_dictionaries()
        rows = rows.sort_by("alloc_seq")
        return DeviceHistory(
            self._device,
            curve,
            instants,
            lifespans,
            allocated,
            np.array([total.reserved_bytes for total in totals], np.int64),
            allocated - live_bytes(lifespans),
            self._layers.layers(int(np.searchsorted(self._layers.cuts.seq, peak))),
            self._layers.cuts,
            self._listing,
            rows,
            self._allocations,
        )


def _no_rows() -> pa.Table:
    """Of a device of which there are only events."""
    schema = pa.schema([SCHEMAS["allocations"].field(name) for name in ROW_COLUMNS])
    sums = [pa.field(SITE, pa.int64()), pa.field(BYTES, pa.int64())]
    return pa.schema([*schema, *sums]).empty_table()


def live_bytes(lifespans: Lifespans) -> Int64s:
    """What was live at each cut, summed over allocations."""
    changes = np.zeros(len(lifespans.cuts) + 1, np.int64)
    np.add.at(changes, lifespans.born, lifespans.block_bytes)
    np.subtract.at(changes, lifespans.died, lifespans.block_bytes)
    live: Int64s = np.cumsum(changes)[:-1]
    return live


def _distinct_seqs(instants: Instants) -> Int64s:
    return np.array(list(dict.fromkeys(instant.seq for instant in instants.chosen)), np.int64)


def _anchors(curve: Curve, instants: Instants, begin: int) -> tuple[Int64s, Int64s]:
    """Seqs and times of the cuts that are kept in any case: first, last and all the instants."""
    found = [(begin, 0 if begin < 0 else int(curve.begin_ns[0]))]
    found.append((int(curve.last_seq[-1]), int(curve.last_ns[-1])))
    found += [(instant.seq, instant.time_ns) for instant in instants.chosen]
    seq, time_ns = np.array(found, np.int64).T
    return seq, time_ns


def _reserved_peak(
    trace: Trace, key: str, device: str, curve: Curve, window_ns: tuple[int, int] | None
) -> tuple[int, int] | None:
    """Where most was reserved, and what the last segment was for has been cut from it."""
    if device == "cpu":
        return None
    if window_ns is not None:
        place = int(curve.reserved_most_bytes.argmax())
        return int(curve.last_seq[place]), int(curve.last_ns[place])
    peak = highest(trace, process=key, device=device, of="reserved")
    if peak is None:
        return None
    moment = settled(trace, moment_at_seq(trace, process=key, device=device, seq=peak.seq))
    return moment.seq, moment.time_ns
