"""A Parquet file with some columns written anew, all others copied as the bytes that they are.

Who changes 6 of 34 columns needs neither to decode nor to encode the rest. A column of a row group
is a run of bytes that knows nothing of its place (pages have their checksums in them); where it
lies is in the footer alone. pyarrow can write no such file: the footer is put together here
(https://parquet.apache.org/docs/file-format/metadata).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from memtrace.attribute.thrift import I32, I64, LIST, STRUCT, Struct, read_struct, write_struct
from memtrace.dataset import damaged
from memtrace.dataset_writer import new_file, parquet_writer
from memtrace.footer import seal
from memtrace.schema import SCHEMAS

_MAGIC = b"PAR1"
_TAIL_BYTES = 8
# Numbers of fields, by the struct that they are in: what is read or changed.
_FILE_SCHEMA, _FILE_GROUPS, _FILE_ORDERS = 2, 4, 7
_ELEMENT_NAME, _ELEMENT_CHILDREN = 4, 5
_GROUP_COLUMNS, _GROUP_BYTES, _GROUP_OFFSET, _GROUP_COMPRESSED = 1, 2, 5, 6
_GROUP_SORTING = 4  # by places of columns
_CHUNK_OFFSET, _CHUNK_COLUMN = 2, 3
_CHUNK_INDEXES = (4, 5, 6, 7)  # page indexes, which lie elsewhere
_COLUMN_PATH, _COLUMN_UNCOMPRESSED, _COLUMN_COMPRESSED = 3, 6, 7
_COLUMN_PAGES, _COLUMN_DICTIONARY = 9, 11
_COLUMN_ELSEWHERE = (10, 14, 15)  # index pages, bloom filters


def replace_columns(path: Path, dataset: str, target: Path, tables: Iterable[pa.Table]) -> None:
    """Writes `target`, a new file: what `path` is, but for the columns of `tables`.

    Args:
        path: a file of the dataset, all of its columns flat, with the dataset's types.
        tables: of each row group in order, its new columns; and those that the file lacks.

    Raises:
        OSError, pyarrow.ArrowException: it cannot be read or written.
        MemtraceError: its footer is damaged.
    """
    anew = pa.BufferOutputStream()  # what is written anew is small: a part of a few columns
    writer = None
    for table in tables:
        writer = writer or parquet_writer(anew, dataset, table.schema)
        writer.write_table(table, row_group_size=max(table.num_rows, 1))
    assert writer is not None
    writer.close()
    with path.open("rb") as old, os.fdopen(new_file(target), "wb") as out:
        try:
            kept = _Columns(old)
        except (ValueError, LookupError) as error:
            raise damaged(path, error) from error
        _write(out, kept, _Columns(pa.BufferReader(anew.getvalue())), SCHEMAS[dataset].names)
    seal(target)


class _Columns:
    """Where the columns of a file are."""

    def __init__(self, file: Any) -> None:
        self._file = file
        size = file.seek(0, 2)
        file.seek(size - _TAIL_BYTES)
        length = int.from_bytes(file.read(4), "little")
        file.seek(size - _TAIL_BYTES - length)
        self.footer = read_struct(file.read(length))
        self.root, *elements = _items(self.footer, _FILE_SCHEMA)
        self.elements = {element[_ELEMENT_NAME][1].decode(): element for element in elements}
        self.groups = _items(self.footer, _FILE_GROUPS)
        self._chunks = [
            {_name(chunk): chunk for chunk in _items(group, _GROUP_COLUMNS)}
            for group in self.groups
        ]

    def chunk(self, group: int, name: str) -> tuple[Struct, bytes]:
        """The column of the row group: what the footer says of it, and its pages."""
        chunk = self._chunks[group][name]
        column: Struct = chunk[_CHUNK_COLUMN][1]
        self._file.seek(_begin(column))
        return chunk, self._file.read(column[_COLUMN_COMPRESSED][1])


def _items(struct: Struct, field: int) -> list[Any]:
    """Of a list."""
    items: list[Any] = struct[field][1][1]
    return items


def _name(chunk: Struct) -> str:
    name: bytes = _items(chunk[_CHUNK_COLUMN][1], _COLUMN_PATH)[0]
    return name.decode()


def _begin(column: Struct) -> int:
    """Of its pages; the dictionary comes first. A column without rows may have none."""
    return min((column[field][1] for field in _pages_of(column)), default=0)


def _pages_of(column: Struct) -> list[int]:
    """The fields that say where its pages begin."""
    fields = (_COLUMN_PAGES, _COLUMN_DICTIONARY)
    return [field for field in fields if field in column and column[field][1] > 0]


def _write(out: Any, kept: _Columns, anew: _Columns, names: list[str]) -> None:
    of = {name: anew if name in anew.elements else kept for name in names}
    place = out.write(_MAGIC)
    groups = []
    for index, group in enumerate(kept.groups):
        start, chunks = place, []
        for name in names:
            chunk, pages = of[name].chunk(index, name)
            chunks.append(_moved(chunk, place))
            place += out.write(pages)
        columns = [chunk[_CHUNK_COLUMN][1] for chunk in chunks]
        uncompressed = sum(column[_COLUMN_UNCOMPRESSED][1] for column in columns)
        group = {field: value for field, value in group.items() if field != _GROUP_SORTING}
        group[_GROUP_COLUMNS] = LIST, (STRUCT, chunks)
        group[_GROUP_BYTES] = I64, uncompressed
        group[_GROUP_OFFSET] = I64, start
        group[_GROUP_COMPRESSED] = I64, place - start
        groups.append(group)
    elements = [of[name].elements[name] for name in names]
    footer = dict(kept.footer)
    footer[_FILE_SCHEMA] = (
        LIST,
        (
            STRUCT,
            [{**kept.root, _ELEMENT_CHILDREN: (I32, len(names))}, *elements],
        ),
    )
    footer[_FILE_GROUPS] = LIST, (STRUCT, groups)
    if _FILE_ORDERS in footer:  # of each column: the order of its type
        footer[_FILE_ORDERS] = LIST, (STRUCT, _items(footer, _FILE_ORDERS)[:1] * len(names))
    data = write_struct(footer)
    out.write(data + len(data).to_bytes(4, "little") + _MAGIC)


def _moved(chunk: Struct, place: int) -> Struct:
    """What the footer says of a column whose pages begin at `place` now."""
    column: Struct = dict(chunk[_CHUNK_COLUMN][1])
    shift = place - _begin(column)
    for field in _pages_of(column):
        column[field] = I64, column[field][1] + shift
    for field in _COLUMN_ELSEWHERE:
        column.pop(field, None)
    moved = {field: value for field, value in chunk.items() if field not in _CHUNK_INDEXES}
    return {**moved, _CHUNK_OFFSET: (I64, 0), _CHUNK_COLUMN: (STRUCT, column)}
