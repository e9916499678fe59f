"""What the callbacks of training frameworks share: a recording, its stages and steps, its figures.

Figures are bytes, by the names that loggers get: "memtrace/cuda0/peak_allocated_bytes".
"""

from __future__ import annotations

import os
from typing import Any

from memtrace import recording
from memtrace.errors import MemtraceError
from memtrace.recording import say
from memtrace.session import record, stage, step

_MEASURES = ("allocated", "reserved")


class TrainingRecording:
    """One training run of this process, recorded by itself or as part of a running recording.

    Args:
        path: Record the run into this trace; each further rank into one beside it
            ("run.rank1.memtrace"). None: the recording that is on, if there is one.
        force: Replace `path` when it is a trace already.
    """

    def __init__(self, path: str | os.PathLike[str] | None, *, force: bool) -> None:
        self._path = path
        self._force = force
        self._own: record | None = None
        self._stages: list[stage] = []
        self._step: step | None = None

    def begin(self) -> None:
        """A run begins.

        Raises:
            MemtraceError: it was to be recorded, and cannot be.
        """
        self.leave_stages()
        if self._path is not None and self._own is None:
            own = record(_of_rank(os.fspath(self._path)), force=self._force)
            own.start()
            self._own = own if own.path is not None else None  # else `memtrace run` records it

    def enter_stage(self, name: str) -> None:
        """It lies in the stage that is open."""
        entered = stage(name)
        entered.__enter__()
        self._stages.append(entered)

    def leave_stages(self, *, but: int = 0) -> None:
        """All but so many of the outer ones."""
        self.end_step()
        while len(self._stages) > but:
            self._stages.pop().__exit__(None, None, None)

    @property
    def stages(self) -> int:
        """How many are open."""
        return len(self._stages)

    def begin_step(self, name: str) -> None:
        """The step before it is over at the latest now."""
        self.end_step()
        self._step = step(name)
        self._step.__enter__()

    def end_step(self) -> None:
        """Nothing where none is open."""
        if self._step is not None:
            ended, self._step = self._step, None
            ended.__exit__(None, None, None)

    def figures(self) -> dict[str, int]:
        """The peaks of CUDA devices so far: exact, or left out. Of the CPU nothing counts them."""
        recorded = recording.current()
        if recorded is None or recorded.hook is None:
            return {}
        peaks = recorded.hook.cuda_peaks.read()
        return {_figure(device, measure): peak for (device, measure), peak in peaks.items()}

    def end(self) -> dict[str, int]:
        """The run is over: ends its own recording. Returns the peaks of that, of every device."""
        self.leave_stages()
        own, self._own = self._own, None
        recorded = recording.current()
        if own is None or own.path is None or recorded is None:
            return {}
        try:
            own.stop()
            return _peaks_of(own.path, recorded.key)
        except MemtraceError as error:  # never at the cost of a training that has succeeded
            say(str(error))
            return {}


def _peaks_of(trace_dir: str, key: str) -> dict[str, int]:
    from memtrace.analyse.counters import highest
    from memtrace.trace import open_trace

    trace = open_trace(trace_dir)
    found: dict[str, int] = {}
    for device in trace.devices_by_process.get(key, []):
        for measure in _MEASURES[: 1 if device == "cpu" else None]:
            peak: Any = highest(trace, process=key, device=device, of=measure)
            if peak is not None:
                found[_figure(device, measure)] = peak.total_bytes
    return found


def _figure(device: str, measure: str) -> str:
    # Not every logger takes a colon.
    return f"memtrace/{device.replace(':', '')}/peak_{measure}_bytes"


def _of_rank(path: str) -> str:
    rank = os.environ.get("RANK", "0")
    if rank in ("", "0"):
        return path
    stem = path.removesuffix(".memtrace")
    return f"{stem}.rank{rank}{path[len(stem) :]}"
