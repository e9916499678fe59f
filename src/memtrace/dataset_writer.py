"""Parquet files of a dataset as every trace has them: private, and encoded for its columns."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, TypeVar

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from memtrace.footer import seal
from memtrace.schema import NEVER_NULL, SCHEMAS

# pyarrow.compute registers its functions when it is imported, which pyarrow itself does at the
# first cast. A thread that looks one up meanwhile, as writing a dictionary does, may not find it
# ("No function registered with name: unique"): so it is imported before there is such a thread.

Writer = TypeVar("Writer", bound="_Writer")

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


def _bounded(dataset: str) -> list[str]:
    """The columns of which a footer says the least and the largest: those that readers look for.

    Of words nobody does, and to compare them takes as long as to write them.
    """
    never_null = NEVER_NULL.get(dataset, ())
    return [f.name for f in SCHEMAS[dataset] if f.type != pa.string() or f.name in never_null]


class _Writer:
    """Closed when its `with` block ends, abandoned when that raises."""

    def close(self) -> None:
        raise NotImplementedError

    def abandon(self) -> None:
        raise NotImplementedError

    def __enter__(self: Writer) -> Writer:
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


def parquet_writer(
    sink: pa.NativeFile | pa.BufferOutputStream, dataset: str, schema: pa.Schema
) -> pq.ParquetWriter:
    """Writes columns of the dataset, all or some, as every trace has them."""
    dictionary, encodings = _encodings(dataset)
    return pq.ParquetWriter(
        sink,
        schema,
        compression=_COMPRESSION,
        compression_level=_COMPRESSION_LEVEL,
        use_dictionary=dictionary,
        column_encoding=encodings,
        store_schema=False,
        write_statistics=_bounded(dataset),
        write_page_checksum=True,  # a flipped bit is an error, never another figure
    )


def new_file(path: Path) -> int:
    """Makes it, private from its first byte on; the descriptor to write it by."""
    return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)


class PartWriter(_Writer):
    """One new Parquet file; each table that is written is a row group of it."""

    def __init__(self, path: Path, dataset: str, schema: pa.Schema) -> None:
        os.close(new_file(path))
        self._path = path
        self._file = pa.OSFile(os.fsencode(path), "wb")  # pyarrow takes no str that is not UTF-8
        self._writer = parquet_writer(self._file, dataset, schema)

    def write(self, table: pa.Table) -> None:
        self._writer.write_table(table, row_group_size=max(table.num_rows, 1))

    def close(self) -> None:
        self._writer.close()
        self._file.close()
        seal(self._path)

    def abandon(self) -> None:
        """Lets go of a half-written file without minding that it cannot be finished."""
        for half in (self._writer, self._file):
            with contextlib.suppress(OSError, pa.ArrowException):
                half.close()


class DatasetWriter(_Writer):
    """The parts of one dataset of one process; the first exists even when there are no rows."""

    def __init__(self, folder: Path, dataset: str, *, most_part_rows: int = 0) -> None:
        self._folder = folder
        self._dataset = dataset
        self._part = 0
        self._writer: PartWriter | None = None
        self.rows = 0
        self._part_rows = 0
        self._most_part_rows = most_part_rows
        folder.mkdir(mode=0o700, parents=True)

    def closed_parts(self) -> list[Path]:
        """The files that are complete, in order."""
        return [self._path(part) for part in range(self._part)]

    def write(self, table: pa.Table, *, ends_part: bool = False) -> None:
        writer = self._writer or self._open(table.schema)
        writer.write(table)
        self.rows += table.num_rows
        self._part_rows += table.num_rows
        if ends_part or (self._most_part_rows and self._part_rows >= self._most_part_rows):
            self._close_part()

    def end_part(self) -> None:
        """The rows after these go to a new file."""
        self._close_part()

    def close(self) -> None:
        if self._part == 0 and self._writer is None:
            self._open(SCHEMAS[self._dataset])
        self._close_part()

    def abandon(self) -> None:
        """Lets go of a half-written part without minding that it cannot be finished."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.abandon()

    def _open(self, schema: pa.Schema) -> PartWriter:
        self._writer = PartWriter(self._path(self._part), self._dataset, schema)
        return self._writer

    def _path(self, part: int) -> Path:
        return self._folder / f"part-{part:05}.parquet"

    def _close_part(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
            self._part += 1
            self._part_rows = 0
