"""The instants of a recording that a reader asks for by name: the peak, failed requests, ends of
stages and of steps. A bounded choice of them, and how many there are."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from memtrace.analyse.counters import Flags, Int64s
from memtrace.analyse.curve import Curve
from memtrace.analyse.failures import Failure
from memtrace.analyse.stage_list import Stage, Steps
from memtrace.analyse.step_names import StepNames
from memtrace.analyse.windows import END, Windows

PEAK, RESERVED_PEAK, OOM, STAGE_PEAK, STAGE_END, STEP_PEAK, STEP_END, LAST = (
    "peak", "reserved_peak", "oom", "stage_peak", "stage_end", "step_peak", "step_end", "last",
)  # fmt: skip
MOST_OOMS, MOST_STAGES, MOST_STEPS = 16, 48, 32


@dataclass(frozen=True)
class Instant:
    """What stood after the event of `seq`.

    Attributes:
        name: of the stage, or of the step once it has been told (name_steps).
        number: of the step, as the trace calls it, or of the failed request, from 1.
    """

    kind: str
    seq: int
    time_ns: int
    name: str = ""
    number: int | None = None


@dataclass(frozen=True)
class Instants:
    """The instants chosen, the most important first, and how many of what there were.

    Attributes:
        needed: how many of the first ones are more than a choice among many alike.
        totals: by kind (OOM, STAGE_END, STEP_END) how many there are in the recording.
    """

    chosen: tuple[Instant, ...]
    needed: int
    totals: dict[str, int]


def choose_instants(
    curve: Curve,
    windows: Windows,
    *,
    reserved_peak: tuple[int, int] | None,
    is_part: bool,
    failures: list[Failure],
    stages: list[Stage],
    steps: Steps,
) -> Instants:
    """Of one device. Of stages and steps: those with the largest peaks, the first and the last.

    Args:
        reserved_peak: its seq and time.
        is_part: the curve is of a part of the recording: what lies outside is left out.
    """
    first_seq, last_seq = curve.first_seq, int(curve.last_seq[-1])
    at = curve.peak
    found = [Instant(PEAK, int(curve.most_seq[at]), int(curve.most_ns[at]))]
    if reserved_peak is not None:
        found.append(Instant(RESERVED_PEAK, *reserved_peak))
    ooms = [
        Instant(OOM, failure.moment.seq, failure.moment.time_ns, number=number)
        for number, failure in enumerate(failures, 1)
        if first_seq <= failure.moment.seq <= last_seq
    ]
    found += ooms[: -MOST_OOMS - 1 : -1]
    starts = np.array([stage.start_seq for stage in stages], np.int64)
    ends = np.array([stage.end_seq for stage in stages], np.int64)
    named = [stage.kind != "whole" for stage in stages]
    for place in _largest(windows.peaks(starts, ends), np.array(named, np.bool_), MOST_STAGES):
        stage = stages[place]
        peak = windows.peak(stage.start_seq, stage.end_seq)
        peak_ns = stage.start_time_ns if peak.time_ns is None else peak.time_ns
        found.append(Instant(STAGE_PEAK, peak.seq, peak_ns, stage.name))
        if stage.end_seq != END:
            found.append(Instant(STAGE_END, stage.end_seq - 1, stage.end_time_ns, stage.name))
    found.append(Instant(LAST, last_seq, int(curve.last_ns[-1])))
    needed = len(found)
    ended = steps.end_seq != END
    for place in _largest(windows.peaks(steps.start_seq, steps.end_seq), ended, MOST_STEPS):
        number = int(steps.number[place])
        peak = windows.peak(int(steps.start_seq[place]), int(steps.end_seq[place]))
        peak_ns = int(steps.start_time_ns[place]) if peak.time_ns is None else peak.time_ns
        found.append(Instant(STEP_PEAK, peak.seq, peak_ns, number=number))
        end = int(steps.end_seq[place]) - 1
        found.append(Instant(STEP_END, end, int(steps.end_time_ns[place]), number=number))
    if is_part:
        inside = [instant for instant in found if first_seq <= instant.seq <= last_seq]
    else:  # after the device's last event, what that left behind still stands
        inside = [replace(instant, seq=min(instant.seq, last_seq)) for instant in found]
    return Instants(
        tuple(inside),
        min(needed, len(inside)),
        {OOM: len(ooms), STAGE_END: sum(named), STEP_END: len(steps)},
    )


def name_steps(instants: Instants, names: StepNames) -> Instants:
    """Says which steps the instants are of."""
    of_steps = [i for i in instants.chosen if i.kind in (STEP_PEAK, STEP_END)]
    told = dict(zip(of_steps, names.of([i.number for i in of_steps]), strict=True))
    chosen = (replace(i, name=told[i] or "") if i in told else i for i in instants.chosen)
    return replace(instants, chosen=tuple(chosen))


def _largest(peaks: Int64s, wanted: Flags, most: int) -> list[int]:
    """The first, the last, and those with the largest peaks, in their order."""
    places = np.flatnonzero(wanted)
    if len(places) <= most:
        return [int(place) for place in places]
    by_peak = places[np.argsort(-peaks[places], kind="stable")]
    chosen = dict.fromkeys([int(places[0]), int(places[-1]), *by_peak.tolist()])
    return sorted(list(chosen)[:most])
