"""Batches of native columns as Arrow tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from memtrace import _core
from memtrace.schema import SCHEMAS


def to_table(dataset: str, columns: list[_core.Column]) -> pa.Table:
    """A batch as an Arrow table without copying; strings stay dictionaries."""
    schema = SCHEMAS[dataset]
    arrays = [_array(column, schema.field(column.name).type) for column in columns]
    return pa.Table.from_arrays(arrays, names=[column.name for column in columns])


def encoded(table: pa.Table) -> pa.Table:
    """A table made in Python as those of batches are: strings as dictionaries."""
    for place, field in enumerate(table.schema):
        if field.type == pa.string():
            words = table.column(place).dictionary_encode()
            table = table.set_column(place, field.name, words)
    return table


def _array(column: _core.Column, wanted: pa.DataType) -> pa.Array[Any]:
    validity = None if column.validity is None else _buffer(column.validity)
    values = _buffer(column.values)
    length = len(column.values)
    if column.dictionary is not None:
        codes = pa.Array.from_buffers(pa.int32(), length, [validity, values])
        words = pa.array(column.dictionary, pa.string())
        return pa.DictionaryArray.from_arrays(codes, words, safe=False)  # codes of our own making
    if column.offsets is not None:
        items = pa.Array.from_buffers(pa.int64(), length, [None, values])
        lists = len(column.offsets) - 1
        return pa.Array.from_buffers(
            pa.list_(pa.int64()), lists, [None, _buffer(column.offsets)], children=[items]
        )
    stored = pa.uint64() if column.kind == "uint64" else pa.int64()
    array = pa.Array.from_buffers(stored, length, [validity, values])
    return array if stored == wanted else array.cast(wanted)


def _buffer(values: npt.NDArray[Any]) -> pa.Buffer:
    return pa.py_buffer(np.ascontiguousarray(values).data)
