"""What the footers of a trace's files say."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from memtrace.dataset import Bounds, Part, row_groups_of
from memtrace.dataset_writer import PartWriter
from memtrace.schema import SCHEMAS


def test_footers_have_the_bounds_that_readers_look_for(tmp_path: Path) -> None:
    """Of numbers, and of words by which rows are found; of no others, which takes its time."""
    schema = SCHEMAS["segments"]
    row = dict.fromkeys(schema.names)
    rows = [
        {**row, "segment_id": i, "device": f"cuda:{i}", "address": i, "size_bytes": 512 * i}
        | {"alloc_seq": i, "pool": "graph:1"}
        for i in (1, 2)
    ]
    path = tmp_path / "part.parquet"
    with PartWriter(path, "segments", schema) as writer:
        writer.write(pa.Table.from_pylist(rows, schema=schema))
    (group,) = row_groups_of([Part("segments", path)])
    assert group.bounds("size_bytes") == Bounds(512, 1024, 0)
    assert group.bounds("free_seq") == Bounds(None, None, 2)
    assert group.bounds("device") == Bounds("cuda:1", "cuda:2", 0)
    assert group.bounds("pool") is None
