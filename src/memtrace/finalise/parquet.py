"""Batches of native columns into Parquet parts: how each column is encoded, and where it goes."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from memtrace import _core
from memtrace.schema import SCHEMAS

# pyarrow.compute registers its functions when it is imported, which pyarrow itself does at the
# first cast. A thread that looks one up meanwhile, as writing a dictionary does, may not find it
# ("No function registered with name: unique"): so it is imported before there is such a thread.

_COMPRESSION: Final[Literal["zstd"]] = "zstd"
_COMPRESSION_LEVEL = 3
# How a column is encoded decides what zstd can do with it (benchmarks/finalise/encodings.py has
# the figures). Numbers that rise, or nearly: their differences. Running sums and addresses repeat
# as long runs of a loop's iterations, which zstd finds in the plain values and not in the bits of
# a dictionary's codes. All the rest: a dictionary. BYTE_STREAM_SPLIT would be smaller still for the
# plain ones, but few readers know it for integers.
_DELTA = frozenset(
    {
        "seq", "time_ns", "alloc_seq", "free_seq", "release_seq", "start_seq", "end_seq",
        "alloc_time_ns", "free_time_ns", "release_time_ns", "start_time_ns", "end_time_ns",
        "bin_start_ns", "allocation_id", "operator_call_id", "call_id", "parent_call_id",
        "sequence_number",
    }
)  # fmt: skip
_PLAIN = {
    "events": frozenset({"address", "allocated_bytes", "active_bytes"}),
    "allocations": frozenset({"address"}),
}


def _encodings(dataset: str) -> tuple[list[str], dict[str, str]]:
    """The columns that take a dictionary, and the encodings of the others."""
    plain = _PLAIN.get(dataset, frozenset())
    names = SCHEMAS[dataset].names
    others = {name: "DELTA_BINARY_PACKED" for name in names if name in _DELTA}
    others |= {name: "PLAIN" for name in names if name in plain}
    dictionary = [name for name in names if name not in others]
    # A list's values are addressed by their place in the file.
    return ["shape.list.element" if name == "shape" else name for name in dictionary], others


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


class DatasetWriter:
    """The parts of one dataset of one process; the first exists even when there are no rows."""

    def __init__(self, folder: Path, dataset: str) -> None:
        self._folder = folder
        self._dataset = dataset
        self._schema = SCHEMAS[dataset]
        self._part = 0
        self._writer: pq.ParquetWriter | None = None
        self._file: pa.OSFile | None = None
        self.rows = 0
        folder.mkdir(mode=0o700, parents=True)

    def write(self, table: pa.Table, *, ends_part: bool = False) -> None:
        writer = self._writer or self._open(table.schema)
        writer.write_table(table, row_group_size=max(table.num_rows, 1))
        self.rows += table.num_rows
        if ends_part:
            self._close_part()

    def close(self) -> None:
        if self._part == 0 and self._writer is None:
            self._open(self._schema)
        self._close_part()

    def abandon(self) -> None:
        """Lets go of a half-written part without minding that it cannot be finished."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with contextlib.suppress(OSError, pa.ArrowException):
                writer.close()
        if self._file is not None:
            with contextlib.suppress(OSError, pa.ArrowException):
                self._file.close()

    def _open(self, schema: pa.Schema) -> pq.ParquetWriter:
        path = self._folder / f"part-{self._part:05}.parquet"
        # Made first, so that it is private from its first byte on.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        dictionary, encodings = _encodings(self._dataset)
        self._file = pa.OSFile(os.fsencode(path), "wb")  # pyarrow takes no str that is not UTF-8
        self._writer = pq.ParquetWriter(
            self._file,
            schema,
            compression=_COMPRESSION,
            compression_level=_COMPRESSION_LEVEL,
            use_dictionary=dictionary,
            column_encoding=encodings,
            store_schema=False,
            write_statistics=True,
        )
        return self._writer

    def _close_part(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
            if self._file is not None:
                self._file.close()
            self._part += 1

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            self.abandon()
