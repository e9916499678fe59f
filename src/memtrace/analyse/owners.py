"""Who asked for memory; and rows of `allocations` grouped by a column, each group with what most of
its bytes have in common.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from memtrace.analyse.breakdown import GROUPINGS
from memtrace.analyse.counters import Int64s
from memtrace.analyse.stack import Frame, stacks_by_id
from memtrace.errors import MemtraceError
from memtrace.trace import Trace

#: What an owner is told by, whatever it is grouped by.
TOLD = ("category", "operator", "module", "source")


@dataclass(frozen=True)
class Owner:
    """A group of allocations.

    Attributes:
        key: the value grouped by; None: the rows that have none.
        category, operator, module, source: that of most of the group's bytes; None where more of
            them have none than have any one.
    """

    by: str
    key: str | None
    category: str | None
    operator: str | None
    module: str | None
    source: str | None

    @property
    def name(self) -> str:
        """The key, or words for rows without one."""
        return self.key if self.key is not None else f"({GROUPINGS[self.by]})"


@dataclass(frozen=True)
class AskedBy:
    """Who asked for memory.

    Attributes:
        operator: the innermost that is not a factory, else the outermost factory.
        forward_operator: in a backward: of the forward, whose module and line are told.
    """

    operator: str | None
    top_operator: str | None
    forward_operator: str | None
    module: str | None
    module_class: str | None
    source: str | None
    stack: tuple[Frame, ...]


def owner_columns(by: str) -> list[str]:
    """The columns of `allocations` that grouping needs.

    Raises:
        MemtraceError: there is no such column to group by.
    """
    if by not in GROUPINGS:
        raise MemtraceError(f"cannot group by {by}; there are {', '.join(GROUPINGS)}")
    return list(dict.fromkeys([_column(by), *TOLD]))


def encode(table: pa.Table, column: str) -> tuple[Int64s, list[str | None]]:
    """A column as numbers and what they stand for; null and the empty string are one: None."""
    values: Any = table.column(column)
    if values.num_chunks == 0:
        return np.empty(0, np.int64), []
    if not pa.types.is_dictionary(values.type):
        values = pc.dictionary_encode(values)
    whole: Any = values.unify_dictionaries().combine_chunks()
    if isinstance(whole, pa.ChunkedArray):  # what some versions of pyarrow make of it
        whole = pa.concat_arrays(whole.chunks)
    names = [None if v is None or v == "" else str(v) for v in whole.dictionary.to_pylist()]
    names.append(None)
    codes = np.asarray(pc.fill_null(whole.indices.cast(pa.int64()), len(names) - 1))
    kept = list(dict.fromkeys(names))
    places = {name: place for place, name in enumerate(kept)}
    return np.array([places[name] for name in names], np.int64)[codes], kept


def group_codes(table: pa.Table, by: str) -> tuple[Int64s, list[str | None]]:
    """The group of each row, and the keys of the groups."""
    return encode(table, _column(by))


def owners(
    table: pa.Table, by: str, codes: Int64s, keys: list[str | None], weight: Int64s
) -> list[Owner]:
    """The owner of each group; `weight`: what each row counts for, in bytes."""
    told = {name: _mostly(table, name, codes, len(keys), weight) for name in TOLD}
    return [
        Owner(by, key, **{name: told[name][place] for name in TOLD})
        for place, key in enumerate(keys)
    ]


def stacks_of_groups(
    trace: Trace, process: str, by: str, keys: Iterable[str | None]
) -> dict[str, tuple[Frame, ...]]:
    """What the keys of groups stand for where stacks were grouped by; else empty."""
    if by != "stack":
        return {}
    frames = stacks_by_id(trace, process, [int(key) for key in keys if key is not None])
    return {str(stack_id): found for stack_id, found in frames.items()}


def _mostly(
    table: pa.Table, column: str, groups: Int64s, number: int, weight: Int64s
) -> list[str | None]:
    values, names = encode(table, column)
    if not len(values):
        return [None] * number
    pairs, inverse = np.unique(groups * len(names) + values, return_inverse=True)
    sums = np.bincount(inverse, weights=weight, minlength=len(pairs))
    order = np.lexsort((-sums, pairs // len(names)))
    found, first = np.unique(pairs[order] // len(names), return_index=True)
    mostly: list[str | None] = [None] * number
    for group, place in zip(
        found.tolist(), (pairs[order][first] % len(names)).tolist(), strict=True
    ):
        mostly[group] = names[place]
    return mostly


def _column(by: str) -> str:
    return "stack_id" if by == "stack" else by
