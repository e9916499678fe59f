"""Columns of a row group as numpy arrays, and back: nulls as numbers, words as codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from memtrace.dataset import RowGroup

Int64s = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]
Int8s = npt.NDArray[np.int8]
Flags = npt.NDArray[np.bool_]

#: A null number: of a seq or a time, after everything ("never freed", "no end").
NEVER = np.iinfo(np.int64).max
#: A word that is null, or not among those asked for; no such row.
NONE = -1


class Columns:
    """Columns of a table, decoded when asked for."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self.rows: int = table.num_rows

    @classmethod
    def read(cls, group: RowGroup, names: Sequence[str]) -> Columns:
        """These columns of a row group; one that an older trace lacks is null."""
        return cls(group.read(list(dict.fromkeys(names))))

    def numbers(self, name: str) -> Int64s:
        """Integers, int64[rows]; null is NEVER, a handle above it wraps."""
        return numbers(self._table.column(name))

    def flags(self, name: str) -> Flags:
        """Booleans; null is False."""
        column: Any = pc.fill_null(self._table.column(name), pa.scalar(False))
        return np.asarray(column.to_numpy(), dtype=np.bool_)

    def codes(self, name: str, words: Sequence[str]) -> Int8s:
        """The place of each row's word in `words`, int8[rows]; NONE for any other and for null."""
        codes, texts = words_of(self._table.column(name))
        place = {word: i for i, word in enumerate(words)}
        found = np.array([place.get(text, NONE) for text in texts] + [NONE], np.int8)
        return found[codes]

    def words(self, name: str) -> tuple[Int32s, list[str]]:
        """Codes (NONE: null) and what they stand for."""
        return words_of(self._table.column(name))


def numbers(column: pa.ChunkedArray[Any]) -> Int64s:
    """An integer column as int64; null is NEVER."""
    if column.null_count:
        column = pc.fill_null(column, pa.scalar(NEVER, column.type))
    values: Int64s = column.to_numpy().astype(np.int64, copy=False)
    return values


def words_of(column: pa.ChunkedArray[Any]) -> tuple[Int32s, list[str]]:
    """A string column, a dictionary or not, as int32 codes (NONE: null) and their words."""
    if column.num_chunks == 0 or column.null_count == len(column):
        return np.full(len(column), NONE, np.int32), []
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    whole: Any = column.unify_dictionaries().combine_chunks()
    if isinstance(whole, pa.ChunkedArray):  # as some versions of pyarrow give it
        whole = whole.chunk(0)
    indices = whole.indices
    if indices.null_count:
        indices = pc.fill_null(indices, pa.scalar(NONE, indices.type))
    return indices.to_numpy().astype(np.int32, copy=False), whole.dictionary.to_pylist()


def word_column(codes: npt.NDArray[Any], texts: Sequence[str]) -> pa.Array[Any]:
    """The reverse of `words_of`, with no more words than the rows use."""
    used = np.zeros(len(texts) + 1, np.bool_)
    used[codes] = True
    used[-1] = False  # NONE
    places = np.flatnonzero(used)
    renumbered = np.zeros(len(texts) + 1, np.int32)
    renumbered[places] = np.arange(len(places), dtype=np.int32)
    null = codes == NONE
    indices = pa.array(renumbered[codes], pa.int32(), mask=null if null.any() else None)
    words = pa.array([texts[i] for i in places.tolist()], pa.string())
    return pa.DictionaryArray.from_arrays(indices, words)


def places_of(ids: Int64s, wanted: Int64s) -> Int64s:
    """Where each wanted id is in the sorted `ids`; NONE where it is not."""
    if not len(ids):
        return np.full(len(wanted), NONE, np.int64)
    places = np.searchsorted(ids, wanted)
    places[places == len(ids)] = 0
    return np.where(ids[places] == wanted, places, NONE)
