"""A prediction beside a recording of what was predicted: by category, and by operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from memtrace.analyse.breakdown import Breakdown, break_down
from memtrace.analyse.counters import highest
from memtrace.analyse.peak import find_peak
from memtrace.analyse.target import why_empty
from memtrace.errors import MemtraceError
from memtrace.fit.error_band import band_permille
from memtrace.fit.gpu_kernels import kind_of_work
from memtrace.fit.served import serve
from memtrace.replay.requests import read_requests
from memtrace.trace import Process, Trace
from memtrace.whatif.registry import apply_all

BY = ("category", "operator")


@dataclass(frozen=True)
class Pair:
    """Bytes of one owner, or of the device: predicted, and as they really were."""

    name: str
    predicted_bytes: int
    real_bytes: int

    @property
    def delta_bytes(self) -> int:
        """Above zero: the prediction is too high."""
        return self.predicted_bytes - self.real_bytes

    @property
    def error_permille(self) -> float:
        """Of the real bytes; of nothing it is 0."""
        return 1000 * self.delta_bytes / self.real_bytes if self.real_bytes else 0.0


@dataclass(frozen=True)
class Verification:
    """Two traces at their peaks.

    Attributes:
        totals: peaks of allocated, and, where both are known, of reserved memory.
        parts: by each of BY, what was held at the peak of allocated; the largest difference first.
    """

    trace: Trace
    other: Trace
    process: Process
    other_process: Process
    device: str
    other_device: str
    what: tuple[str, ...]
    band_permille: int
    totals: tuple[Pair, ...]
    parts: dict[str, tuple[Pair, ...]]
    assumptions: tuple[str, ...]


def verify(
    trace: Trace,
    other: Trace,
    *,
    asked: Mapping[str, Sequence[str]] | None = None,
    device: str | None = None,
    process: str | int | None = None,
) -> Verification:
    """Predicts from one trace what the other shows.

    Args:
        asked: what-ifs: what the other one's program did otherwise.
        device: of both; by default of each the one that `memtrace peak` tells of.

    Raises:
        MemtraceError: a trace has no such device or process, or a what-if is refused, or the other
            is of the CPU and this one is not.
    """
    if not other.devices:
        raise MemtraceError(f"{other.path}: {why_empty(other)}")
    asked = asked or {}
    recorded = read_requests(trace, device=device, process=process)
    requests, changes = apply_all(recorded, asked)
    real = {by: find_peak(other, device=device, by=by) for by in BY}
    first = real[BY[0]]
    if not requests.on_cpu and first.device == "cpu":
        raise MemtraceError(
            f"{other.path} was recorded on the CPU: requests of {requests.device} say nothing of it"
        )
    as_gpu = requests.on_cpu and first.device != "cpu"
    served = serve(requests, on_gpu=not requests.on_cpu or as_gpu)
    peak = served.outcome.peak()
    held = served.outcome.held(peak.place)
    totals = [Pair("allocated", peak.total_bytes, first.total_bytes)]
    reserved = served.outcome.curves.get("reserved")
    really = highest(other, process=first.process.key, device=first.device, of="reserved")
    if reserved is not None and really is not None:
        predicted = served.outcome.peak("reserved").total_bytes
        totals.append(Pair("reserved", predicted, really.total_bytes))
    return Verification(
        trace=trace,
        other=other,
        process=requests.process,
        other_process=first.process,
        device=requests.device,
        other_device=first.device,
        what=tuple(change.what for change in changes),
        band_permille=band_permille(asked, cpu_as_gpu=kind_of_work(requests) if as_gpu else None),
        totals=tuple(totals),
        parts={
            by: _pairs(break_down(held, by=by, total_bytes=peak.total_bytes), real[by].breakdown)
            for by in BY
        },
        assumptions=tuple(line for change in changes for line in change.assumptions),
    )


def _pairs(predicted: Breakdown, real: Breakdown) -> tuple[Pair, ...]:
    a, b = ({row.key: row.total_bytes for row in found.rows} for found in (predicted, real))
    pairs = [Pair(name, a.get(name, 0), b.get(name, 0)) for name in {**a, **b}]
    return tuple(sorted(pairs, key=lambda p: (-abs(p.delta_bytes), -p.real_bytes, p.name)))
