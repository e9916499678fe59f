"""Frames of a stack, by its id."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from memtrace.analyse.counters import Int64s, integers
from memtrace.dataset import RowGroup
from memtrace.trace import Trace

#: As hook/cells.py calls the file of a cell, and Python the code of it that is in no function.
_CELL, _MODULE = re.compile(r"In\[\d+\]"), "<module>"
_COLUMNS = ("function", "file", "line", "module", "module_class", "source")


@dataclass(frozen=True)
class Frame:
    """One frame.

    Attributes:
        module, module_class: on the frame that calls an nn.Module.
        source: on the innermost one, the line that memory of the stack is said to be of.
    """

    function: str
    file: str
    line: int
    module: str | None = None
    module_class: str | None = None
    source: str | None = None

    @property
    def text(self) -> str:
        """As the column `source` has it: "model.py:120 forward"."""
        return f"{self.file.rpartition('/')[2]}:{self.line} {self._short_function}"

    @property
    def text_without_line(self) -> str:
        """Likewise, for files whose lines move: "model.py forward"."""
        return f"{self.file.rpartition('/')[2]} {self._short_function}"

    @property
    def _short_function(self) -> str:
        return self.function.rpartition("<locals>.")[2]


def frame_of_text(text: str) -> Frame | None:
    """The frame that Frame.text tells of, as far as it does; files have spaces in their names."""
    found = re.fullmatch(r"(.*):(\d+) (.*)", text, re.DOTALL)
    return Frame(found[3], found[1], int(found[2])) if found else None


def stacks_by_id(trace: Trace, process: str, ids: Collection[int]) -> dict[int, tuple[Frame, ...]]:
    """Frames of these stacks, innermost first; an id that is not there is left out."""
    wanted = np.unique(np.fromiter(ids, np.int64, len(ids)))
    found: dict[int, list[tuple[int, Frame]]] = {}
    if not len(wanted):
        return {}
    frames: dict[tuple[Any, ...], Frame] = {}  # most are in many stacks
    for group in trace.datasets["stacks"].row_groups(process):
        if not _may_hold_any(group, wanted):
            continue
        keys = group.read(["stack_id", "depth"])
        chosen = np.isin(integers(keys, "stack_id", missing=-1), wanted)
        if not chosen.any():
            continue
        keys, table = keys.filter(pa.array(chosen)), group.read(_COLUMNS).filter(pa.array(chosen))
        places = zip(*(integers(keys, name).tolist() for name in keys.column_names), strict=True)
        rows = zip(*(table.column(name).to_pylist() for name in _COLUMNS), strict=True)
        for (stack_id, depth), row in zip(places, rows, strict=True):
            frame = frames.get(row)
            if frame is None:
                function, file, line, *rest = row
                frame = frames[row] = Frame(function or "?", file or "?", line or 0, *rest)
            found.setdefault(stack_id, []).append((depth, frame))
    return {
        stack_id: tuple(frame for _, frame in sorted(frames_of, key=lambda item: item[0]))
        for stack_id, frames_of in found.items()
    }


def _may_hold_any(group: RowGroup, wanted: Int64s) -> bool:
    bounds = group.bounds("stack_id")
    if bounds is None:
        return True
    if bounds.low is None:
        return False
    first, last = np.searchsorted(wanted, [bounds.low, bounds.high + 1])
    return bool(first < last)


def told_frames(frames: tuple[Frame, ...]) -> tuple[Frame, ...]:
    """Without the two frames that torch puts between a module and its forward.

    And without those that run a notebook's cell: its own are the outermost ones.
    """
    cells = (i for i, f in enumerate(frames) if f.function == _MODULE and _CELL.fullmatch(f.file))
    end = next(cells, len(frames)) + 1
    told = tuple(f for f in frames[:end] if not f.file.endswith("torch/nn/modules/module.py"))
    return told or frames
