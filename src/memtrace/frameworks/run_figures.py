"""The figures of a trace that a tracker of experiments keeps of a run: a name and a number each.

Names are stable (docs/recipes/mlflow.md lists them), and hold only what every tracker allows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from memtrace.analyse.breakdown import GROUP
from memtrace.analyse.counters import highest
from memtrace.analyse.ledger import DeviceLedger, make_ledger
from memtrace.analyse.peak import find_peak
from memtrace.analyse.stage_list import Steps, steps_of
from memtrace.analyse.windows import END, Windows, read_windows
from memtrace.trace import Process, Trace

#: Points of a curve: of more steps, those with the largest peaks of as many groups.
MOST_STEPS = 10_000
_MOST_LETTERS = 100
_CPU = "cpu"


@dataclass(frozen=True)
class Figure:
    """A number.

    Attributes:
        value: bytes, where the name ends in _bytes.
        step: of a curve, the number of the step; else 0.
        time_ns: the instant that it is of, since the recording began.
    """

    name: str
    value: int
    step: int = 0
    time_ns: int = 0


def run_figures(
    trace: Trace, *, device: str | None = None, process: str | int | None = None
) -> tuple[Process, list[Figure]]:
    """The figures of one process, the one given or that with the largest peak, which comes too.

    Args:
        device: only this one; every one that the process used when left out.

    Raises:
        MemtraceError: there is no such device or process, or no events.
    """
    ledger = make_ledger(trace, device=device, process=process)
    chosen = ledger.process
    used = trace.devices_by_process[chosen.key]
    shown = [found for found in ledger.devices if found.device in used]
    steps = steps_of(trace, chosen)
    cuts = np.append(steps.start_seq, END)
    windows = read_windows(trace, chosen.key, [found.device for found in shown], cuts)
    figures = [Figure("lost_records", chosen.row["lost_total"] or 0)]
    for found in shown:
        name = in_a_name(found.device)
        figures += [
            replace(figure, name=f"{name}/{figure.name}")
            for figure in (
                *_peak(trace, found.device, chosen),
                *_stages(found),
                *_step_peaks(windows[found.device], steps),
            )
        ]
    return chosen, figures


def _peak(trace: Trace, device: str, process: Process) -> Iterator[Figure]:
    peak = find_peak(trace, device=device, by="category", process=process.key)
    yield Figure("peak_allocated_bytes", peak.total_bytes, time_ns=peak.time_ns)
    for row in peak.breakdown.rows:
        kind = row.key if row.kind == GROUP else row.kind
        yield Figure(f"at_peak/{in_a_name(kind)}_bytes", row.total_bytes, time_ns=peak.time_ns)
    reserved = highest(trace, process=process.key, device=device, of="reserved")
    if reserved is not None and device != _CPU:
        yield Figure("peak_reserved_bytes", reserved.total_bytes)


def _stages(found: DeviceLedger) -> Iterator[Figure]:
    """As `memtrace stages` has them: of the CPU with tensors of other allocators' memory."""
    if found.idle_bytes is not None:
        yield Figure("idle_bytes", found.idle_bytes)
    line = "tensors" if found.device == _CPU else "allocated"
    taken: set[str] = set()
    for ledger in found.stages:
        name = _unlike(in_a_name(ledger.stage.name), taken)
        for what, instant in (("peak", ledger.peak), ("end", ledger.end)):
            size = instant.size_bytes(line)
            if size is not None:
                yield Figure(f"stage/{name}/{what}_bytes", size, time_ns=instant.time_ns)


def _step_peaks(windows: Windows, steps: Steps) -> Iterator[Figure]:
    """Of each step the most that was allocated until the next one began: backward and update too.

    A step is a call of a model, and has the number that the trace gives it.
    """
    if not len(steps):
        return
    peaks = windows.peaks(steps.start_seq, np.append(steps.start_seq[1:], END))
    several = -(-len(steps) // MOST_STEPS)
    for first in range(0, len(steps), several):
        place = first + int(peaks[first : first + several].argmax())
        yield Figure(
            "step_peak_bytes",
            int(peaks[place]),
            step=int(steps.number[place]),
            time_ns=int(steps.start_time_ns[place]),
        )


def in_a_name(text: str) -> str:
    """The text as one part of a name: "cuda:0" is cuda_0."""
    plain = re.sub(r"[^A-Za-z0-9_. -]", "_", text).strip(" .")
    return plain[:_MOST_LETTERS].strip(" .") or "_"


def _unlike(name: str, taken: set[str]) -> str:
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    taken.add(found)
    return found
