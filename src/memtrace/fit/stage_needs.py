"""What each stage needs of a device: loading can be the true peak, two copies of the weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memtrace.analyse.ledger import without_doubles
from memtrace.analyse.stage_list import stages_of, steps_of
from memtrace.analyse.windows import END
from memtrace.replay.outcome import Outcome
from memtrace.replay.requests import NEVER

IDLE = "idle"


@dataclass(frozen=True)
class StageNeed:
    """A stage, or "idle".

    Attributes:
        peak_bytes: the most that was allocated in it, what stood as it began included.
        place: where.
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
    windows = [
        (s.name, s.start_seq - 0.5, NEVER if s.end_seq == END else s.end_seq - 0.5)
        for s in without_doubles(stages_of(trace, process))
    ]
    starts = steps_of(trace, process).start_seq
    if len(starts) and all(name != IDLE for name, _, _ in windows):
        first = float(starts.min()) - 0.5
        windows.append((IDLE, first, first))
    windows.sort(key=lambda window: (window[1], window[2]))
    whole = outcome.peak()
    best: dict[str, StageNeed] = {}
    for name, start, end in windows:
        found = _at(outcome, start) if start == end else outcome.peak(start=start, end=end)
        total, place = (
            (found, start) if isinstance(found, int) else (found.total_bytes, found.place)
        )
        if name not in best or best[name].peak_bytes < total:
            best[name] = StageNeed(name, total, place, is_peak=place == whole.place)
    return tuple(best.values())


def _at(outcome: Outcome, place: float) -> int:
    before = int(np.searchsorted(outcome.places, place, side="right"))
    return int(outcome.curves["allocated"][before - 1]) if before else 0
