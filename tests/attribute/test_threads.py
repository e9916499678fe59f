"""Threads that work on row groups: in order, few at a time, of one file one after the other."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from memtrace.attribute.threads import in_order
from memtrace.dataset import Part, row_groups_of
from memtrace.dataset_writer import PartWriter
from memtrace.schema import SCHEMAS


def test_results_are_in_order_and_few_are_in_memory() -> None:
    begun: list[int] = []
    first_may_end = threading.Event()

    def work(item: int) -> int:
        begun.append(item)
        if item == 0:
            first_may_end.wait(10)
        else:
            first_may_end.set()
        return item

    results = in_order(work, range(20), at_a_time=2)
    for expected, result in enumerate(results):
        assert result == expected
        assert len(begun) <= expected + 3


def test_an_error_is_raised_in_its_place_and_nothing_is_begun_after() -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        if item == 3:
            raise OSError("the disk is full")
        return item

    results = in_order(work, range(100))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="the disk is full"):
        next(results)
    assert max(begun) <= 5


def test_threads_may_share_a_file(tmp_path: Path) -> None:
    """pyarrow does not bear it: without a lock this ends the process."""
    path, schema = tmp_path / "part.parquet", SCHEMAS["names"]
    with PartWriter(path, "names", schema) as writer:
        for first in range(0, 800, 100):
            n = list(range(first, first + 100))
            columns = {"allocation_id": n, "name": list(map(str, n)), "dtype": ["a"] * 100}
            lacking = {f.name: pa.nulls(100, f.type) for f in schema if f.name not in columns}
            writer.write(pa.table(columns | lacking).select(schema.names).cast(schema))
    with ThreadPoolExecutor(2) as pool:
        for _ in range(100):
            groups = list(row_groups_of([Part("names", path, mapped=False)]))
            tables = pool.map(lambda group: group.read(["allocation_id", "name"]), groups)
            ids = [i for table in tables for i in table.column("allocation_id").to_pylist()]
            assert ids == list(range(800))
