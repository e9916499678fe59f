"""What each stage held of each device, at its peak and at its end, as sums that reconcile."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from memtrace.analyse.counters import equals
from memtrace.analyse.held import Held, held_at
from memtrace.analyse.ledger_lines import Line, cpu_lines, external_bytes, gpu_lines
from memtrace.analyse.readings import Reading, Readings
from memtrace.analyse.stage_list import Stage, Steps, stages_of, step_at, steps_of
from memtrace.analyse.target import choose_target, find_process
from memtrace.analyse.windows import END, Totals, Windows, read_windows
from memtrace.trace import Process, Trace, device_order

STAGES_SHOWN = 20
_CPU, _IDLE = "cpu", "idle"
_NOTHING = Held({}, 0, {})


@dataclass(frozen=True)
class Instant:
    """A device at the peak of a stage, or at its end.

    Attributes:
        seq: the last event that had happened; -1: none.
        lines: the sum, in its order (analyse.ledger_lines).
    """

    seq: int
    time_ns: int
    lines: tuple[Line, ...]

    def size_bytes(self, name: str) -> int | None:
        """Of a line; None where there is no such line, or it was not counted."""
        return next((line.size_bytes for line in self.lines if line.name == name), None)


@dataclass(frozen=True)
class StageLedger:
    """One stage on one device.

    Attributes:
        count: how many stages have its name; this is the one whose peak is the largest.
        peak: where most was allocated, at the first such instant.
        peak_step: the call of a model that was under way then: its row of `steps`.
        largest: by metric (rss_bytes, process_bytes, container_usage_bytes), the largest value
            sampled within it.
    """

    stage: Stage
    count: int
    peak: Instant
    end: Instant
    peak_step: dict[str, Any] | None
    largest: dict[str, int]


@dataclass(frozen=True)
class BatchPeak:
    """Calls of models with batches of one size; None: not known."""

    batch_size: int | None
    steps: int
    peak_bytes: int


@dataclass(frozen=True)
class DeviceLedger:
    """One device of the process.

    Attributes:
        left_out: how many stages, each of a name of its own, are not among `stages`.
        idle_bytes: allocated before the work began: at the end of the stage "idle", or before the
            first call of a model. None where there is neither.
        idle_is_stage: which of the two.
        batches: the peak in the calls of each batch size, the smallest first.
    """

    device: str
    device_name: str
    stages: tuple[StageLedger, ...]
    left_out: int
    idle_bytes: int | None
    idle_is_stage: bool
    batches: tuple[BatchPeak, ...]


@dataclass(frozen=True)
class Ledger:
    """One process; `others` are those with events of the same devices, which have their own."""

    process: Process
    devices: tuple[DeviceLedger, ...]
    others: tuple[Process, ...]


def make_ledger(
    trace: Trace,
    *,
    device: str | None = None,
    process: str | int | None = None,
    top: int | None = STAGES_SHOWN,
) -> Ledger:
    """The ledger of one process: of the one given, or of that with the largest peak.

    Of a trace without events, what was sampled of the host: of the one with the largest RSS.

    Reads events once, and allocations once for each device, however many stages there are.

    Args:
        device: only this one; all that the process used when left out.
        top: stages to show of each device, those with the largest peaks; None shows all. Of
            stages with the same name, one stands for all.

    Raises:
        MemtraceError: there is no such device or process, or no events.
    """
    sampled = {} if trace.devices else _largest_rss(trace)
    if sampled and device in (None, _CPU):
        whose = trace.process_list if process is None else [find_process(trace, process)]
        chosen = max(whose, key=lambda p: sampled.get(p.key, -1))
    else:
        chosen = choose_target(trace, device=device, process=process, of="allocated").process
    used = trace.devices_by_process[chosen.key]
    maker = _Maker(trace, chosen, used, top)
    known = {*used, _CPU} if maker.knows_host else {*used}
    shown = [d for d in sorted(known, key=device_order) if device in (None, d)]
    others = [
        p
        for p in trace.process_list
        if p.key != chosen.key and (p.key in sampled or _uses(trace, p, shown))
    ]
    return Ledger(chosen, tuple(maker.device(name) for name in shown), tuple(others))


def _largest_rss(trace: Trace) -> dict[str, int]:
    """Of each process that was sampled; all that is known where there are no events."""
    found = {p.key: Readings(trace, p.key).largest("host", "rss") for p in trace.process_list}
    return {key: reading.value_bytes for key, reading in found.items() if reading is not None}


def _uses(trace: Trace, process: Process, devices: Iterable[str]) -> bool:
    return any(device in trace.devices_by_process[process.key] for device in devices)


class _Maker:
    """What is read once for all devices of a process."""

    def __init__(
        self, trace: Trace, process: Process, used: Sequence[str], top: int | None
    ) -> None:
        self._trace = trace
        self._process = process
        self._top = top
        self._has_events = bool(used)
        self._readings = Readings(trace, process.key)
        self._stages = without_doubles(stages_of(trace, process))
        self._steps = steps_of(trace, process)
        self._graph_pools = _graph_pools(trace, process)
        targets = [("host", "rss")] + [(d, m) for d in used for m in ("process", "used")]
        cuts = [self._readings.seqs(*target) for target in targets]
        cuts += [self._steps.start_seq, self._steps.end_seq]
        bounds = [seq for stage in self._stages for seq in (stage.start_seq, stage.end_seq)]
        cuts.append(np.array([*bounds, 0, END], np.int64))
        self._windows = read_windows(trace, process.key, used, np.concatenate(cuts))
        self._none = read_windows(trace, "", [_CPU], [0, END])[_CPU]

    @property
    def knows_host(self) -> bool:
        """Whether anything was sampled of the process as a whole."""
        return bool(len(self._readings.seqs("host", "rss")))

    def device(self, device: str) -> DeviceLedger:
        windows = self._windows.get(device, self._none)
        chosen, left_out = self._choose(windows)
        instants = [(stage, *self._instants(windows, stage)) for stage, _ in chosen]
        seqs = {totals.seq for _, *pair in instants for totals, _ in pair}
        if device == _CPU:  # of memory that is not the allocator's, at the samples too
            times = {time_ns for _, *pair in instants for _, time_ns in pair}
            around = [self._readings.around("host", "rss", time_ns) for time_ns in times]
            seqs |= {sample.seq - 1 for samples in around for sample in samples}
        held = held_at(self._trace, self._process.key, device, seqs)
        ledgers = []
        for (stage, count), (_, *pair) in zip(chosen, instants, strict=True):
            peak, end = (self._instant(device, windows, held, *at) for at in pair)
            step = step_at(self._trace, self._process, peak.seq)
            ledgers.append(StageLedger(stage, count, peak, end, step, self._largest(device, stage)))
        idle_bytes, idle_is_stage = self._idle(windows)
        return DeviceLedger(
            device=device,
            device_name=self._process.device_names.get(device, ""),
            stages=tuple(ledgers),
            left_out=left_out,
            idle_bytes=idle_bytes,
            idle_is_stage=idle_is_stage,
            batches=_batches(windows, self._steps),
        )

    def _choose(self, windows: Windows) -> tuple[list[tuple[Stage, int]], int]:
        """Of each name the stage with the largest peak, and how many have the name."""
        starts = np.array([stage.start_seq for stage in self._stages], np.int64)
        ends = np.array([stage.end_seq for stage in self._stages], np.int64)
        peaks = windows.peaks(starts, ends)
        best: dict[tuple[str, str], tuple[int, int, int]] = {}
        counts: dict[tuple[str, str], int] = {}
        for place, stage in enumerate(self._stages):
            key = (stage.name, stage.kind)
            counts[key] = counts.get(key, 0) + 1
            rss = None if self._has_events else self._rss_peak(stage)
            candidate = (int(peaks[place]), 0 if rss is None else rss.value_bytes, -place)
            best[key] = max(best.get(key, candidate), candidate)
        largest = sorted(best, key=lambda key: best[key], reverse=True)[: self._top]
        places = sorted(-best[key][2] for key in largest)
        chosen = [self._stages[place] for place in places]
        return [(s, counts[s.name, s.kind]) for s in chosen], len(best) - len(chosen)

    def _instants(
        self, windows: Windows, stage: Stage
    ) -> tuple[tuple[Totals, int], tuple[Totals, int]]:
        peak = windows.peak(stage.start_seq, stage.end_seq)
        end = windows.before(stage.end_seq)
        peak_ns = stage.start_time_ns if peak.time_ns is None else peak.time_ns
        if not self._has_events and (rss := self._rss_peak(stage)) is not None:
            peak_ns = rss.time_ns
        return (peak, peak_ns), (end, stage.end_time_ns)

    def _instant(
        self, device: str, windows: Windows, held: dict[int, Held], totals: Totals, time_ns: int
    ) -> Instant:
        now = held.get(totals.seq, _NOTHING)
        if device != _CPU:
            lines = gpu_lines(
                device, totals, time_ns, now, self._readings,
                lambda seq: windows.before(seq).reserved_bytes, self._graph_pools,
            )  # fmt: skip
            return Instant(totals.seq, time_ns, lines)
        row = self._process.row
        off = row.get("cpu_on") is False
        why_off = "--no-cpu" if row["start_method"] != "imported" else "an imported file"
        lines = cpu_lines(
            totals, time_ns, now, self._readings,
            lambda seq: (
                windows.before(seq).allocated_bytes + external_bytes(held.get(seq - 1, _NOTHING))
            ),
            not_recorded=f"tensors of the CPU were not recorded ({why_off})" if off else None,
        )  # fmt: skip
        return Instant(totals.seq, time_ns, lines)

    def _rss_peak(self, stage: Stage) -> Reading | None:
        return self._readings.largest("host", "rss", stage.start_time_ns, stage.end_time_ns)

    def _largest(self, device: str, stage: Stage) -> dict[str, int]:
        targets = {"process_bytes": (device, "process")}
        if device == _CPU:
            targets = {
                "rss_bytes": ("host", "rss"),
                "container_usage_bytes": ("container", "usage"),
            }
        found = {
            name: self._readings.largest(*target, stage.start_time_ns, stage.end_time_ns)
            for name, target in targets.items()
        }
        return {name: reading.value_bytes for name, reading in found.items() if reading}

    def _idle(self, windows: Windows) -> tuple[int | None, bool]:
        idle = next((stage for stage in self._stages if stage.name == _IDLE), None)
        starts = self._steps.start_seq
        if idle is None:
            seq = int(starts[0]) if len(starts) else None
        else:  # a plain stage may go on while the program works
            first = int(np.searchsorted(starts, idle.start_seq))
            seq = min([idle.end_seq, *map(int, starts[first : first + 1])])
        if seq is None:
            return None, False
        return windows.before(seq).allocated_bytes, idle is not None


def _graph_pools(trace: Trace, process: Process) -> frozenset[str]:
    """Pools that graphs were captured into: of one that was made beforehand, the name says not."""
    table = trace.datasets["marks"].read(["kind", "pool"], key=process.key)
    captures = equals(table, "kind", "capture_begin") | equals(table, "kind", "capture_end")
    pools = table.filter(pa.array(captures)).column("pool").unique().to_pylist()
    return frozenset(pool for pool in pools if pool is not None)


def without_doubles(stages: list[Stage]) -> list[Stage]:
    """What the program itself has named is not shown a second time as it was found out."""
    named = {stage.name for stage in stages if stage.kind != "auto"}
    return [stage for stage in stages if stage.kind != "auto" or stage.name not in named]


def _batches(windows: Windows, steps: Steps) -> tuple[BatchPeak, ...]:
    if not len(steps):
        return ()
    peaks = windows.peaks(steps.start_seq, steps.end_seq)
    sizes, which, counts = np.unique(steps.batch_size, return_inverse=True, return_counts=True)
    most = np.zeros(len(sizes), np.int64)
    np.maximum.at(most, which, peaks)
    return tuple(
        BatchPeak(int(size) if size >= 0 else None, int(count), int(peak))
        for size, count, peak in zip(sizes, counts, most, strict=True)
    )
