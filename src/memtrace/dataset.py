"""One dataset of a trace: its Parquet files by process, read by row group and by column.

A trace may hold hundreds of millions of rows, so nothing here reads more than is asked for: the
statistics in the footers say which row groups can matter, and only their columns are decoded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from memtrace.errors import MemtraceError
from memtrace.footer import is_whole
from memtrace.schema import NEVER_NULL, SCHEMAS

_PARTITION = "process="
_PARQUET_MAGIC = b"PAR1"


@dataclass(frozen=True)
class Bounds:
    """What a footer says of one column in one row group; exact for numbers."""

    low: Any
    high: Any
    nulls: int


@dataclass(frozen=True)
class RowGroup:
    """A run of rows of one file, with its place in the order of the process's rows."""

    part: Part
    index: int
    place: int
    rows: int

    def bounds(self, column: str) -> Bounds | None:
        """The column's smallest and largest value here, or None where the footer has none."""
        position = self.part.positions.get(column)
        if position is None:
            return None
        # Any: the type stubs of pyarrow do not know has_null_count.
        statistics: Any = self.part.metadata.row_group(self.index).column(position).statistics
        if statistics is None or not statistics.has_null_count:
            return None
        if not statistics.has_min_max:
            # All null, or written without bounds: only the first of the two is worth knowing.
            return Bounds(None, None, self.rows) if statistics.null_count == self.rows else None
        return Bounds(statistics.min, statistics.max, statistics.null_count)

    def read(self, columns: Sequence[str]) -> pa.Table:
        """These columns, strings as dictionaries; a column that an older trace lacks is null."""
        with self.part.lock:
            present = [name for name in columns if name in self.part.columns]
            try:
                table = self.part.reader.read_row_group(self.index, columns=present)
            except (OSError, pa.ArrowException) as error:
                raise damaged(self.part.path, error) from error
        schema = SCHEMAS[self.part.dataset]
        for name in columns:
            if name not in self.part.columns:
                table = table.append_column(name, pa.nulls(table.num_rows, schema.field(name).type))
        return table.select(list(columns))


class Part:
    """One Parquet file, opened when first needed and then kept open.

    `mapped`: into memory, as is best for who looks here and there; not for who reads all of it.
    """

    def __init__(self, dataset: str, path: Path, *, mapped: bool = True) -> None:
        self.dataset = dataset
        self.path = path
        self._mapped = mapped
        # pyarrow ends the process, or waits for ever, when two threads read of the same file.
        self.lock = Lock()

    def _open(self) -> pa.NativeFile:
        name = os.fsencode(self.path)  # pyarrow takes no str that is not UTF-8
        return pa.memory_map(name) if self._mapped else pa.OSFile(name)

    @cached_property
    def metadata(self) -> pq.FileMetaData:
        try:
            with self._open() as file:
                if not is_whole(file):
                    raise damaged(self.path, None)
                file.seek(0)
                metadata = pq.read_metadata(file)
            if not _is_of(self.dataset, metadata):
                raise damaged(self.path, None)
        except (OSError, pa.ArrowException) as error:
            raise damaged(self.path, error) from error
        return metadata

    @cached_property
    def reader(self) -> pq.ParquetFile:
        schema = SCHEMAS[self.dataset]
        strings = [
            name
            for name in self.positions
            if name in schema.names and schema.field(name).type == pa.string()
        ]
        try:
            return pq.ParquetFile(
                self._open(),
                metadata=self.metadata,
                read_dictionary=strings,
                page_checksum_verification=True,
            )
        except (OSError, pa.ArrowException) as error:
            raise damaged(self.path, error) from error

    @cached_property
    def columns(self) -> frozenset[str]:
        return frozenset(self.reader.schema_arrow.names)

    @cached_property
    def positions(self) -> dict[str, int]:
        """Where each column's chunk lies in a row group (nested columns have other numbers)."""
        schema = self.metadata.schema
        return {schema.column(i).path: i for i in range(len(schema))}


def _is_of(dataset: str, metadata: pq.FileMetaData) -> bool:
    """Whether the columns have the dataset's types, and NEVER_NULL holds.

    Older traces lack columns, newer ones of this major version have more.
    """
    schema, columns = SCHEMAS[dataset], metadata.schema
    for field in columns.to_arrow_schema():
        if field.name in schema.names and not _same(field.type, schema.field(field.name).type):
            return False
    never_null = NEVER_NULL.get(dataset, ())
    places = [i for i in range(len(columns)) if columns.column(i).path in never_null]
    if len(places) != len(never_null):
        return False
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        for place in places:
            statistics: Any = group.column(place).statistics
            if statistics is None:
                continue
            if statistics.has_null_count and statistics.null_count:
                return False
            least = statistics.min if statistics.has_min_max else None
            if isinstance(least, int) and least < 0:
                return False
    return True


def _same(found: pa.DataType, wanted: pa.DataType) -> bool:
    # What the items of a list are called is the writer's affair.
    if isinstance(found, pa.ListType) and isinstance(wanted, pa.ListType):
        return bool(found.value_type == wanted.value_type)
    return bool(found == wanted)


def parts_in(folder: Path, dataset: str, *, mapped: bool = True) -> list[Part]:
    """The files that one process has of a dataset, in the order of their rows."""
    files = sorted(file for file in folder.iterdir() if file.suffix == ".parquet")
    return [Part(dataset, file, mapped=mapped) for file in files]


def row_groups_of(parts: Sequence[Part]) -> Iterator[RowGroup]:
    """The rows of these files, in order, a row group at a time."""
    place = 0
    for part in parts:
        for index in range(part.metadata.num_row_groups):
            yield RowGroup(part, index, place, part.metadata.row_group(index).num_rows)
            place += 1


class Dataset:
    """All files of one dataset; `keys` are the processes that wrote into it.

    A trace has one root, or two when it cannot be written to and a killed process was finished
    elsewhere.
    """

    def __init__(self, roots: Sequence[Path], name: str) -> None:
        self.name = name
        self._folders = [root / name for root in roots]

    @property
    def exists(self) -> bool:
        return any(folder.is_dir() for folder in self._folders)

    @cached_property
    def parts(self) -> dict[str, list[Part]]:
        found: dict[str, list[Part]] = {}
        for folder in self._folders:
            if not folder.is_dir():
                continue
            for place in sorted(folder.iterdir()):  # glob() would be silent where it may not look
                if place.name.startswith(_PARTITION) and place.is_dir():
                    found[place.name[len(_PARTITION) :]] = parts_in(place, self.name)
        return found

    @property
    def keys(self) -> list[str]:
        return list(self.parts)

    def row_groups(self, key: str) -> Iterator[RowGroup]:
        """The process's rows, in order, a row group at a time."""
        return row_groups_of(self.parts.get(key, []))

    def num_rows(self, key: str | None = None) -> int:
        keys = self.keys if key is None else [key]
        return sum(part.metadata.num_rows for k in keys for part in self.parts.get(k, []))

    def read(self, columns: Sequence[str] | None = None, *, key: str | None = None) -> pa.Table:
        """Rows of one process or of all, as FORMAT.md types them, plus the column `process`."""
        schema = SCHEMAS[self.name]
        names = schema.names if columns is None else list(columns)
        wanted = pa.schema([schema.field(name) for name in names])
        tables = [
            _with_process(group.read(names).cast(wanted), process)
            for process in (self.keys if key is None else [key])
            for group in self.row_groups(process)
        ]
        if not tables:
            return _with_process(wanted.empty_table(), "")
        return pa.concat_tables(tables)

    def check(self) -> None:
        """Refuses files that are not whole; costs eight bytes a file."""
        for parts in self.parts.values():
            for part in parts:
                try:
                    with part.path.open("rb") as file:
                        head = file.read(4)
                        file.seek(-4, 2)
                        tail = file.read(4)
                except OSError as error:
                    raise damaged(part.path, error) from error
                if head != _PARQUET_MAGIC or tail != _PARQUET_MAGIC:
                    raise damaged(part.path, None)


def damaged(path: Path, error: Exception | None) -> MemtraceError:
    """The one line for a file that cannot be read, whichever way that shows."""
    if isinstance(error, PermissionError):
        return MemtraceError(f"{path} cannot be read: permission denied (traces are private)")
    if isinstance(error, FileNotFoundError):
        return MemtraceError(f"{path} is gone; open the trace again")
    return MemtraceError(
        f"{path} is truncated or damaged: copy the trace again, or record the program again"
    )


def _with_process(table: pa.Table, process: str) -> pa.Table:
    # As pyarrow types a hive partition: a key is some 40 bytes, and there may be 10^8 rows.
    repeated = pa.DictionaryArray.from_arrays(
        pa.repeat(pa.scalar(0, pa.int32()), table.num_rows), pa.array([process])
    )
    return table.append_column("process", repeated)
