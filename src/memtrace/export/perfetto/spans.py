"""Stages and steps as nested slices on tracks of their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from memtrace.analyse.step_names import step_name
from memtrace.export.perfetto import fields as f
from memtrace.export.perfetto.packets import PacketFile, Recorded, Words, groups_inside
from memtrace.export.wire import integer, message, text
from memtrace.trace import Trace

_STAGES, _STEPS = "stages", "steps"
_STAGE_COLUMNS = ["name", "kind", "thread_id", "start_time_ns", "end_time_ns"]
_STEP_COLUMNS = [
    "step", "name", "kind", "root_module", "thread_id", "start_time_ns", "end_time_ns",
    "batch_size", "input_shapes", "grad_enabled", "error",
]  # fmt: skip
_TOLD = {
    _STAGES: ("kind",),
    _STEPS: ("kind", "root_module", "batch_size", "input_shapes", "grad_enabled", "error"),
}


@dataclass(frozen=True, slots=True)
class Span:
    """A stage or step; `end_ns` is None when the process was killed in it.

    Attributes:
        thread_id: None when it is of all threads.
        told: what is said of it when it is clicked on.
    """

    lane: str
    name: str
    thread_id: int | None
    start_ns: int
    end_ns: int | None
    told: tuple[tuple[str, Any], ...]


def write_spans(trace: Trace, file: PacketFile, recorded: Recorded) -> None:
    """All of a process's stages and steps."""
    names = Words(f.INTERNED_EVENT_NAMES)
    for (lane, thread_id, number), nested in _lanes(_spans(trace, file, recorded)).items():
        # Not perfetto's thread descriptor: a trace numbers its threads itself, and a made-up tid
        # would be taken for that of another thread of the host.
        name = lane if thread_id is None else f"{lane} of thread {thread_id}"
        name += f" ({number + 1})" if number else ""
        sequence = file.sequence(recorded, file.track(recorded, name))
        for time_ns, beginning in _edges(nested):
            if beginning is None:
                sequence.event(time_ns, integer(f.EVENT_TYPE, f.TYPE_SLICE_END))
                continue
            word = names.id_of(beginning.name)
            sequence.teach_word(names, word)
            sequence.event(
                time_ns,
                integer(f.EVENT_TYPE, f.TYPE_SLICE_BEGIN),
                integer(f.EVENT_NAME_IID, word),
                *(annotation(key, value) for key, value in beginning.told),
            )


def annotation(name: str, value: int | str) -> bytes:
    """A debug annotation of an event."""
    if isinstance(value, bool):
        told = integer(f.ANNOTATION_BOOL, value)
    elif isinstance(value, int):
        told = integer(f.ANNOTATION_UINT, value)
    else:
        told = text(f.ANNOTATION_TEXT, value)
    return message(f.EVENT_ANNOTATIONS, text(f.ANNOTATION_NAME, name), told)


def _spans(trace: Trace, file: PacketFile, recorded: Recorded) -> Iterator[Span]:
    start, end = file.window_ns
    for lane, columns in ((_STAGES, _STAGE_COLUMNS), (_STEPS, _STEP_COLUMNS)):
        for group in groups_inside(trace, file, recorded, lane, "start_time_ns", "end_time_ns"):
            for row in group.read(columns).to_pylist():
                start_ns, end_ns = row["start_time_ns"] or 0, row["end_time_ns"]
                if start_ns > end or (end_ns is not None and end_ns < start):
                    continue
                if end_ns is None and file.starts_late:
                    end_ns = end
                told = tuple((key, row[key]) for key in _TOLD[lane] if row[key] is not None)
                yield Span(
                    lane,
                    _name(lane, row),
                    row["thread_id"],
                    max(start_ns, start),
                    None if end_ns is None else min(end_ns, end),
                    told,
                )


def _name(lane: str, row: dict[str, Any]) -> str:
    if lane == _STAGES:
        return row["name"] or "?"
    if row["name"]:
        return step_name(row)
    what = " ".join(word for word in (row["kind"], row["root_module"]) if word)
    return f"{what or 'step'} {row['step']}"


def _lanes(spans: Iterable[Span]) -> dict[tuple[str, int | None, int], list[Span]]:
    """Spans by track; where two overlap without nesting, the later gets a track further down."""
    lanes: dict[tuple[str, int | None, int], list[Span]] = {}
    open_ends: dict[tuple[str, int | None, int], list[float]] = {}
    ordered = sorted(spans, key=lambda s: (s.start_ns, -_end(s)))
    for item in ordered:
        number = 0
        while True:
            key = (item.lane, item.thread_id, number)
            ends = open_ends.setdefault(key, [])
            while ends and ends[-1] <= item.start_ns:
                ends.pop()
            if not ends or _end(item) <= ends[-1]:
                ends.append(_end(item))
                lanes.setdefault(key, []).append(item)
                break
            number += 1
    return lanes


def _edges(nested: list[Span]) -> Iterator[tuple[int, Span | None]]:
    """Begins (with the span) and ends (None) of properly nested spans, in order of time."""
    stack: list[Span] = []
    for item in nested:
        while stack and _end(stack[-1]) <= item.start_ns:
            yield int(_end(stack.pop())), None
        yield item.start_ns, item
        stack.append(item)
    while stack:
        end = stack.pop().end_ns
        if end is not None:
            yield end, None


def _end(item: Span) -> float:
    return float("inf") if item.end_ns is None else item.end_ns
