"""A file with some columns written anew: the others are copied as they are."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from memtrace.attribute.replaced_columns import replace_columns
from memtrace.dataset import Part, row_groups_of
from memtrace.dataset_writer import PartWriter
from memtrace.errors import MemtraceError
from memtrace.schema import SCHEMAS

SCHEMA = SCHEMAS["segments"]
ROWS = 1000


def rows(first: int, pool: str | None) -> pa.Table:
    n = range(first, first + ROWS)
    columns: dict[str, Any] = {
        name: [None if i % 7 == 0 else i * 512 for i in n]
        for name in SCHEMA.names
        if pa.types.is_integer(SCHEMA.field(name).type)
    }
    columns |= {name: list(n) for name in ("segment_id", "address", "size_bytes", "alloc_seq")}
    columns |= {
        "device": ["cuda:0"] * ROWS,
        "pool": [pool] * ROWS,
        "small": [i % 2 == 0 for i in n],
        "expandable": [None] * ROWS,
    }
    return pa.table(columns, schema=SCHEMA)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "old.parquet"
    with PartWriter(path, "segments", SCHEMA) as writer:
        for first in (0, ROWS):
            writer.write(rows(first, "private"))
        writer.write(SCHEMA.empty_table())
    return path


def pools(word: str | None) -> list[pa.Table]:
    new = [rows(0, word).select(["pool"])] * 2
    return [*new, new[0].slice(0, 0)]


def test_only_the_given_columns_change(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "new.parquet"
    replace_columns(path, "segments", target, pools("graph:1"))
    expected = pa.concat_tables([rows(0, "graph:1"), rows(ROWS, "graph:1")])
    assert pq.ParquetFile(target, page_checksum_verification=True).read().equals(expected)
    old, new = (list(row_groups_of([Part("segments", file)])) for file in (path, target))
    assert [group.rows for group in new] == [ROWS, ROWS, 0]
    assert [group.bounds("segment_id") for group in new] == [g.bounds("segment_id") for g in old]
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_what_is_kept_is_the_same_bytes(path: Path, tmp_path: Path) -> None:
    """Also of a column that another writer would have encoded otherwise."""
    target = tmp_path / "new.parquet"
    replace_columns(path, "segments", target, pools(None))
    found = []
    for file in (path, target):
        column = pq.read_metadata(file).row_group(1).column(SCHEMA.names.index("address"))
        begin = column.dictionary_page_offset or column.data_page_offset
        found.append(file.read_bytes()[begin : begin + column.total_compressed_size])
    assert found[0] == found[1]
    assert found[0]


def test_nothing_of_the_replaced_columns_stays(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "new.parquet"
    replace_columns(path, "segments", target, pools("x"))
    assert b"private" in path.read_bytes()
    assert b"private" not in target.read_bytes()


def test_a_column_that_the_file_lacks_gets_its_place(path: Path, tmp_path: Path) -> None:
    older = tmp_path / "older.parquet"
    lacking = pq.read_table(path).drop_columns(["pool", "expandable"])
    pq.write_table(lacking, older, row_group_size=ROWS, store_schema=False)
    target = tmp_path / "new.parquet"
    more = [t.append_column("expandable", rows(0, None)["expandable"]) for t in pools("x")[:2]]
    replace_columns(older, "segments", target, more)
    assert pq.read_table(target).equals(pa.concat_tables([rows(0, "x"), rows(ROWS, "x")]))


def test_a_page_that_was_damaged_is_so_still(path: Path, tmp_path: Path) -> None:
    column = pq.read_metadata(path).row_group(0).column(SCHEMA.names.index("address"))
    data = bytearray(path.read_bytes())
    begin = column.dictionary_page_offset or column.data_page_offset
    data[begin + column.total_compressed_size - 1] ^= 1
    path.write_bytes(data)
    target = tmp_path / "new.parquet"
    replace_columns(path, "segments", target, pools("x"))
    (group, *_) = row_groups_of([Part("segments", target)])
    assert group.read(["pool"]).num_rows == ROWS
    with pytest.raises(MemtraceError, match=r"new\.parquet is truncated or damaged"):
        group.read(["address"])


def test_a_damaged_footer_is_told(tmp_path: Path) -> None:
    path = tmp_path / "old.parquet"
    path.write_bytes(b"PAR1" + b"\x1b" * 8 + (8).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(MemtraceError, match=r"old\.parquet is truncated or damaged"):
        replace_columns(path, "segments", tmp_path / "new.parquet", pools("x"))
