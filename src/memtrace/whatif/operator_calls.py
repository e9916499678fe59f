"""By what each row of requests was allocated: operators, the calls they ran in, modules."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from memtrace.analyse.counters import Flags, Int64s, integers
from memtrace.replay.requests import Requests

NONE = -1
#: Calls in calls that are looked through.
_DEEPEST = 8


@dataclass(frozen=True)
class Words:
    """A string column: of each row the place of its text in `texts`; NONE: it has none."""

    codes: npt.NDArray[np.int64]
    texts: list[str]

    def are(self, wanted: Collection[str]) -> Flags:
        """Which rows have one of these texts."""
        return self.fit(lambda text: text in wanted)

    def fit(self, rule: Callable[[str], bool]) -> Flags:
        """Which rows have a text that the rule holds for."""
        found: Flags = np.array([rule(text) for text in self.texts] + [False], np.bool_)
        return found[self.codes]

    def text(self, row: int) -> str:
        """Of one row; empty where it has none."""
        code = int(self.codes[row])
        return "" if code == NONE else self.texts[code]


class OperatorCalls:
    """What `requests` says of operators and modules, row by row.

    A *root call* is the outermost operator's call that an allocation was made in: all that
    `scaled_dot_product_attention` allocates is of one, whatever operators it is made of.
    """

    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    @cached_property
    def operator(self) -> Words:
        return self._words("operator")

    @cached_property
    def top_operator(self) -> Words:
        return self._words("top_operator")

    @cached_property
    def module(self) -> Words:
        return self._words("module")

    @cached_property
    def module_class(self) -> Words:
        return self._words("module_class")

    @cached_property
    def phase(self) -> Words:
        return self._words("phase")

    @cached_property
    def source(self) -> Words:
        return self._words("source")

    @cached_property
    def call(self) -> Int64s:
        """The innermost call of the row's operator; NONE: no operator's.

        A factory that the operator calls (aten::empty) is a call of its own: it is left for the one
        around it.
        """
        called = integers(self._requests.rows, "operator_call_id", missing=NONE)
        ids, above, _, names = self._recorded
        if not len(ids):
            return called
        texts = np.array([*self.operator.texts, ""], object)[self.operator.codes]
        at = _places(ids, called)
        for _ in range(_DEEPEST):
            inner = (at != NONE) & (names[at] != texts) & (above[at] != NONE)
            if not inner.any():
                break
            at = np.where(inner, above[at], at)
        return np.where((at == NONE) | (names[at] != texts), called, ids[at])

    @cached_property
    def root(self) -> Int64s:
        """The root call; NONE: no operator's."""
        return self._rooted(integers(self._requests.rows, "operator_call_id", missing=NONE))

    @cached_property
    def forward_root(self) -> Int64s:
        """Of memory of the backward pass: the root call in the forward that it belongs to."""
        called = integers(self._requests.rows, "forward_call_id", missing=NONE)
        return self._rooted(called)

    def _words(self, column: str) -> Words:
        values: Any = self._requests.rows.column(column)
        if not pa.types.is_dictionary(values.type):
            values = values.dictionary_encode()
        whole = values.unify_dictionaries().combine_chunks()
        if isinstance(whole, pa.ChunkedArray):  # as some versions of pyarrow give it
            whole = whole.chunk(0) if whole.num_chunks else pa.array([], whole.type)
        codes = whole.indices.fill_null(NONE).to_numpy(zero_copy_only=False)
        return Words(codes.astype(np.int64), whole.dictionary.to_pylist())

    @cached_property
    def _recorded(self) -> tuple[Int64s, Int64s, Flags, npt.NDArray[np.object_]]:
        """Of the recorded calls: ids, ascending, the place of the call around each, whether both
        are operators' (nodes of autograd and scopes of the user are around those), names."""
        groups = self._requests.trace.datasets["operators"].row_groups(self._requests.process.key)
        tables = [group.read(["call_id", "parent_call_id", "scope", "name"]) for group in groups]
        if not tables:
            nothing = np.zeros(0, np.int64)
            return nothing, nothing, np.zeros(0, np.bool_), np.zeros(0, object)
        table = pa.concat_tables(tables)
        ids, parents = integers(table, "call_id"), integers(table, "parent_call_id", missing=NONE)
        function = np.array([scope == "function" for scope in table["scope"].to_pylist()], np.bool_)
        order = np.argsort(ids)
        ids, parents, function = ids[order], parents[order], function[order]
        above = _places(ids, parents)
        names = np.array(table["name"].to_pylist(), object)[order]
        return ids, above, (above != NONE) & function[above] & function, names

    @cached_property
    def _roots(self) -> Int64s:
        ids, above, operators, _ = self._recorded
        at = np.where(operators, above, np.arange(len(ids)))
        while True:
            further = at[at]
            if np.array_equal(further, at):
                return ids[at]
            at = further

    def _rooted(self, called: Int64s) -> Int64s:
        ids = self._recorded[0]
        if not len(ids):
            return called
        places = _places(ids, called)
        return np.where(places == NONE, called, self._roots[places])


def _places(ids: Int64s, wanted: Int64s) -> Int64s:
    if not len(ids):
        return np.full(len(wanted), NONE, np.int64)
    places = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    return np.where(ids[places] == wanted, places, NONE)
