"""Frames of a stack, by its id."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from memtrace.analyse.counters import integers, may_hold
from memtrace.trace import Trace


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
        function = self.function.rpartition("<locals>.")[2]
        return f"{self.file.rpartition('/')[2]}:{self.line} {function}"


def stacks_by_id(trace: Trace, process: str, ids: Collection[int]) -> dict[int, tuple[Frame, ...]]:
    """Frames of these stacks, innermost first; an id that is not there is left out."""
    wanted = np.fromiter(ids, np.int64, len(ids))
    found: dict[int, list[tuple[int, Frame]]] = {}
    if not len(wanted):
        return {}
    columns = ["stack_id", "depth", "function", "file", "line", "module", "module_class", "source"]
    for group in trace.datasets["stacks"].row_groups(process):
        if not any(may_hold(group, "stack_id", stack_id) for stack_id in wanted.tolist()):
            continue
        table = group.read(columns)
        chosen = np.isin(integers(table, "stack_id", missing=-1), wanted)
        for row in table.filter(pa.array(chosen)).to_pylist():
            frame = Frame(
                row["function"] or "?",
                row["file"] or "?",
                row["line"] or 0,
                row["module"],
                row["module_class"],
                row["source"],
            )
            found.setdefault(row["stack_id"], []).append((row["depth"] or 0, frame))
    return {
        stack_id: tuple(frame for _, frame in sorted(frames, key=lambda item: item[0]))
        for stack_id, frames in found.items()
    }


def told_frames(frames: tuple[Frame, ...]) -> tuple[Frame, ...]:
    """Without the two frames that torch puts between a module and its forward."""
    told = tuple(f for f in frames if not f.file.endswith("torch/nn/modules/module.py"))
    return told or frames
