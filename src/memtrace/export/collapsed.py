"""Collapsed stacks: a line each, for flamegraph.pl, inferno, speedscope and all who read these.

cuda:0;serve.py:31 main;model.py:12 forward;aten::mm 4194304
"""

from __future__ import annotations

from typing import IO

from memtrace.export.held_stacks import Sample, held_stacks
from memtrace.outputs import Selection
from memtrace.trace import Trace


def write_collapsed(trace: Trace, selection: Selection, out: IO[bytes]) -> None:
    """Bytes held at each device's peak; the device is the outermost frame."""
    for device in held_stacks(trace, selection, "a file of collapsed stacks"):
        lines: dict[str, int] = {}
        for sample in device.samples:
            path = ";".join(_frame(word) for word in (device.name, *words(sample)))
            lines[path] = lines.get(path, 0) + sample.held_bytes
        for path, held_bytes in lines.items():
            out.write(f"{path} {held_bytes}\n".encode("utf-8", "replace"))


def words(sample: Sample) -> list[str]:
    """The names of a stack's frames, outermost first, and of the operator in the innermost."""
    found = [frame.text for frame in sample.frames]
    if "operator" in sample.labels:
        found.append(sample.labels["operator"])
    return found or ["(no stack)"]


def _frame(word: str) -> str:
    # What ends a frame, and what ends a line.
    return word.replace(";", ":").replace("\n", " ").replace("\r", " ")
