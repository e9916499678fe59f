"""What each device held at its peak, by the stacks that allocated it: for tools of stacks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from memtrace.analyse.counters import highest, integers, moment_at_seq
from memtrace.analyse.live_set import BYTES, live_allocations
from memtrace.analyse.owners import encode
from memtrace.analyse.stack import Frame, frame_of_text, stacks_by_id, told_frames
from memtrace.errors import MemtraceError
from memtrace.outputs import Selection
from memtrace.trace import Process, Trace

#: What a sample is told by, beside its frames.
LABELS = ("category", "module", "operator")
_COLUMNS = (*LABELS, "source")


@dataclass(frozen=True)
class Sample:
    """Allocations of one stack that are alike.

    Attributes:
        frames: outermost first. Memory of a backward has no stack: its frame is the line of the
            forward.
        labels: LABELS -> value, those that are known.
    """

    frames: tuple[Frame, ...]
    labels: dict[str, str]
    held_bytes: int
    blocks: int


@dataclass(frozen=True)
class HeldStacks:
    """A device of a process at the peak of its allocated bytes.

    Attributes:
        name: "cuda:0", with the process where there are several.
    """

    process: Process
    device: str
    name: str
    time_ns: int
    samples: tuple[Sample, ...]


def held_stacks(trace: Trace, selection: Selection, what: str) -> Iterator[HeldStacks]:
    """Of each device of each process; `what`: the format, for the error.

    Raises:
        MemtraceError: of a window; one instant is told.
    """
    if selection.window_ns is not None:
        raise MemtraceError(
            f"{what} is of one instant, the peak, not of a window: leave --window out"
        )
    several = len(trace.process_list) > 1
    for process in trace.process_list:
        for device in trace.devices_by_process[process.key]:
            if selection.device in (None, device):
                found = _held(trace, process, device, several=several)
                if found is not None:
                    yield found


def _held(trace: Trace, process: Process, device: str, *, several: bool) -> HeldStacks | None:
    peak = highest(trace, process=process.key, device=device, of="allocated")
    if peak is None:
        return None
    moment = moment_at_seq(trace, process=process.key, device=device, seq=peak.seq)
    live = live_allocations(trace, moment, of="allocated", columns=["stack_id", *_COLUMNS])
    codes = integers(live, "stack_id", missing=-1)
    stack_ids, digits = np.unique(codes, return_inverse=True)
    keys: list[tuple[str | None, ...]] = [()]
    groups = np.zeros(live.num_rows, np.int64)
    for column in _COLUMNS:
        values, names = encode(live, column)
        found, groups = np.unique(groups * max(len(names), 1) + values, return_inverse=True)
        keys = [(*keys[pair // len(names)], names[pair % len(names)]) for pair in found.tolist()]
    pairs, places = np.unique(digits * len(keys) + groups, return_inverse=True)
    held = np.zeros(len(pairs), np.int64)
    np.add.at(held, places, integers(live, BYTES))
    blocks = np.bincount(places, minlength=len(pairs))
    frames = stacks_by_id(trace, process.key, [i for i in stack_ids.tolist() if i >= 0])
    samples = []
    for pair, size, count in zip(pairs.tolist(), held.tolist(), blocks.tolist(), strict=True):
        *values, source = keys[pair % len(keys)]
        stack = frames.get(int(stack_ids[pair // len(keys)])) or _frame_of(source)
        labels = zip(LABELS, values, strict=True)
        samples.append(
            Sample(
                frames=tuple(reversed(told_frames(stack))),
                labels={name: value for name, value in labels if value is not None},
                held_bytes=size,
                blocks=count,
            )
        )
    samples.sort(key=lambda sample: -sample.held_bytes)
    name = f"{process}, {device}" if several else device
    return HeldStacks(process, device, name, moment.time_ns, tuple(samples))


def _frame_of(source: str | None) -> tuple[Frame, ...]:
    """The frame that a column `source` tells of: "model.py:120 forward"."""
    frame = frame_of_text(source or "")
    return () if frame is None else (frame,)
