"""What steps are called: "POST /generate · input_ids [4, 512] · step 17".

Calls of models lie in the steps that a program marked; told is the outermost, which has both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from memtrace.analyse.counters import Flags, Int64s, integers
from memtrace.errors import encodable
from memtrace.trace import Trace
from memtrace.trace_json import parsed_object

STEP = "step"
_NONE = -1
#: Of a call with many inputs, so many are told.
_MOST_SHAPES = 2
_NAMING = ("step", "name", "root_module", "input_shapes")


class OuterSteps:
    """Of each step of a process the outermost one that it lies in; of most it is itself."""

    def __init__(self, trace: Trace, process: str) -> None:
        table = trace.datasets["steps"].read(["step", "parent_step"], key=process)
        numbers, place = np.unique(integers(table, "step", missing=_NONE), return_index=True)
        outer = integers(table, "parent_step", missing=_NONE)[place]
        self._numbers = numbers
        self._outer = np.where(outer == _NONE, numbers, outer)
        while not np.array_equal(self._outer, further := self.of(self._outer)):
            self._outer = further

    def of(self, steps: Int64s) -> Int64s:
        """Numbers of steps; one that is not known stays."""
        if not len(self._numbers):
            return steps
        place = np.minimum(np.searchsorted(self._numbers, steps), len(self._numbers) - 1)
        return np.where(self._numbers[place] == steps, self._outer[place], steps)


def is_outermost(table: pa.Table) -> Flags:
    """Of rows of `steps` with their `parent_step`."""
    outermost: Flags = integers(table, "parent_step", missing=_NONE) == _NONE
    return outermost


class StepNames:
    """What the steps of a process are called; read when asked for."""

    def __init__(self, trace: Trace, process: str) -> None:
        self._trace = trace
        self._process = process
        self._outer: OuterSteps | None = None
        self._known: dict[int, str] = {}

    def tell(self, rows: pa.Table, by: Iterable[str]) -> pa.Table:
        """Rows of `allocations`, to be grouped `by` these columns: in "step", names."""
        if STEP not in by or not rows.num_rows:
            return rows
        steps = integers(rows, STEP, missing=_NONE)
        if self._outer is None:
            self._outer = OuterSteps(self._trace, self._process)
        numbers, codes = np.unique(self._outer.of(steps), return_inverse=True)
        self._learn(numbers)
        words = [self._known.get(number) for number in numbers.tolist()]
        column = pa.array(words, pa.string()).take(pa.array(codes))
        return rows.set_column(rows.column_names.index(STEP), STEP, column)

    def of(self, steps: Sequence[int | None]) -> list[str | None]:
        """What each is called, or the outermost that it lies in."""
        rows = self.tell(pa.table({STEP: pa.array(steps, pa.int64())}), [STEP])
        names: list[str | None] = rows.column(STEP).to_pylist()
        return names

    def _learn(self, numbers: Int64s) -> None:
        new = np.array([n for n in numbers.tolist() if n not in self._known and n != _NONE])
        if not len(new):
            return
        self._known |= {number: f"step {number}" for number in new.tolist()}
        for group in self._trace.datasets["steps"].row_groups(self._process):
            chosen = np.isin(integers(group.read([STEP]), STEP, missing=_NONE), new)
            if chosen.any():
                rows = group.read(_NAMING).filter(pa.array(chosen)).to_pylist()
                self._known |= {row[STEP]: step_name(row) for row in rows}


def step_name(row: dict[str, Any]) -> str:
    """Of a row of `steps`."""
    words = [row["name"] or row["root_module"] or "", *told_shapes(row["input_shapes"])]
    return " · ".join([word for word in words if word] + [f"step {row[STEP]}"])


def told_shapes(text: str | None) -> list[str]:
    """Of the column input_shapes: "input_ids [4, 512], mask [4, 512], ..."; empty: none known."""
    shapes = parsed_object(text).items()
    told = [encodable(f"{name} {shape}") for name, shape in shapes if isinstance(shape, list)]
    more = ["..."] if len(told) > _MOST_SHAPES else []
    return [", ".join(told[:_MOST_SHAPES] + more)] if told else []
