"""What each stage needs of a device: loading can be the true peak, two copies of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from memtrace.analyse.counters import Int64s
from memtrace.analyse.ledger import without_doubles
from memtrace.analyse.stage_list import Stage, stages_of, steps_of
from memtrace.analyse.windows import END
from memtrace.replay.outcome import Highest, Outcome
from memtrace.replay.requests import NEVER

IDLE = "idle"


@dataclass(frozen=True)
class StageNeed:
    """A stage, or "idle".

    Attributes:
        peak_bytes: the most that was allocated in it, what stood as it began included.
        place: where; its beginning, if that much stood then.
        is_peak: whether it is the peak of the whole.
    """

    name: str
    peak_bytes: int
    place: float
    is_peak: bool


def stage_needs(outcome: Outcome) -> tuple[StageNeed, ...]:
    """In the order of their beginning, of each name the one that needs most.

    A program that has no stage "idle" is idle right before the first call of a model.
    """
    requests = outcome.requests
    trace, process = requests.trace, requests.process
    stages = without_doubles(stages_of(trace, process))
    calls = steps_of(trace, process).start_seq
    windows: list[tuple[str, float, float]] = []
    for stage in stages:
        end = _end_of_idle(stage, stages, calls) if stage.name == IDLE else stage.end_seq
        windows.append((stage.name, stage.start_seq - 0.5, NEVER if end == END else end - 0.5))
    if len(calls) and all(name != IDLE for name, _, _ in windows):
        first_call = float(calls.min()) - 0.5
        windows.append((IDLE, first_call, first_call))
    windows.sort(key=lambda window: (window[1], window[2]))
    whole = outcome.peak()
    best: dict[str, StageNeed] = {}
    for name, begins, ends in windows:
        found = Highest("allocated", allocated_at(outcome, begins), begins)
        if ends > begins:
            found = outcome.peak(start=begins, end=ends)
        if name not in best or best[name].peak_bytes < found.total_bytes:
            is_peak = found.place == whole.place
            best[name] = StageNeed(name, found.total_bytes, max(found.place, begins), is_peak)
    return tuple(best.values())


def _end_of_idle(idle: Stage, stages: Sequence[Stage], calls: Int64s) -> int:
    """A plain stage may go on while the program works: it is idle until that begins."""
    later = [s.start_seq for s in stages if s.start_time_ns > idle.start_time_ns]
    later += calls[calls >= idle.start_seq][:1].tolist()
    return min([idle.end_seq, *later])


def allocated_at(outcome: Outcome, place: float) -> int:
    """What was allocated after all that had happened at a place."""
    before = int(np.searchsorted(outcome.places, place, side="right"))
    return int(outcome.curves["allocated"][before - 1]) if before else 0
