"""What was sampled of one process, and the readings nearest to an instant."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from memtrace.analyse.counters import Int64s, integers
from memtrace.trace import Trace

_SOURCES = ("rss", "pss", "uss", "nvml", "mem_get_info", "cgroup")
_UNAVAILABLE = "unavailable"
_ALWAYS = (1 << 62) - 1


@dataclass(frozen=True)
class Reading:
    """A value, when it was read, and the place of that in the order of events."""

    value_bytes: int
    time_ns: int
    seq: int


class Readings:
    """The samples of one process that are readings of whole memory, by target and metric."""

    def __init__(self, trace: Trace, process: str) -> None:
        names = ["time_ns", "seq", "target", "source", "metric", "value_bytes", "text", "reason"]
        table = trace.datasets["samples"].read(names, key=process)
        wanted = pc.is_in(table.column("source"), value_set=pa.array(_SOURCES))
        table = table.filter(wanted).sort_by("time_ns")
        #: Whether somebody beside the program sampled it.
        self.from_outside = bool(pc.any(pc.equal(table.column("reason"), "period")).as_py())
        self._series: dict[tuple[str, str], tuple[Int64s, Int64s, Int64s]] = {}
        self._why: dict[str, str] = {}
        rows = table.select(["target", "metric"]).group_by(["target", "metric"]).aggregate([])
        for row in rows.to_pylist():
            target, metric = row["target"], row["metric"]
            chosen = table.filter(
                pc.and_(
                    pc.equal(table.column("target"), target),
                    pc.equal(table.column("metric"), metric),
                )
            )
            if metric == _UNAVAILABLE:
                self._why[target] = chosen.column("text")[0].as_py() or ""
                continue
            chosen = chosen.filter(pc.is_valid(chosen.column("value_bytes")))
            columns = [integers(chosen, name) for name in ("time_ns", "seq", "value_bytes")]
            self._series[target, metric] = (columns[0], columns[1], columns[2])

    def why_unavailable(self, target: str) -> str | None:
        """What the sampler said of a target that it could not read."""
        return self._why.get(target)

    def nearest(self, target: str, metric: str, time_ns: int) -> Reading | None:
        """The reading nearest in time; the earlier of two as near. None: there is none at all."""
        around = self.around(target, metric, time_ns)
        return min(around, key=lambda reading: abs(reading.time_ns - time_ns), default=None)

    def around(self, target: str, metric: str, time_ns: int) -> list[Reading]:
        """The last reading before an instant and the first after it, those that there are."""
        series = self._series.get((target, metric))
        if series is None:
            return []
        after = int(np.searchsorted(series[0], time_ns))
        return [
            Reading(int(series[2][i]), int(series[0][i]), int(series[1][i]))
            for i in (after - 1, after)
            if 0 <= i < len(series[0])
        ]

    def all(self, target: str, metric: str) -> list[Reading]:
        """Every reading, in order."""
        series = self._series.get((target, metric))
        if series is None:
            return []
        return [Reading(int(v), int(t), int(s)) for t, s, v in zip(*series, strict=True)]

    def largest(
        self, target: str, metric: str, start_ns: int = 0, end_ns: int = _ALWAYS
    ) -> Reading | None:
        """The first largest value read in a span of time; None where none was read."""
        series = self._series.get((target, metric))
        if series is None:
            return None
        first, last = np.searchsorted(series[0], [start_ns, end_ns + 1])
        if first == last:
            return None
        at = int(first + series[2][first:last].argmax())
        return Reading(int(series[2][at]), int(series[0][at]), int(series[1][at]))

    def seqs(self, target: str, metric: str) -> Int64s:
        """The places of all readings in the order of events."""
        series = self._series.get((target, metric))
        return np.zeros(0, np.int64) if series is None else series[1]
