"""Bytes per event and time per row of each encoding, column by column, on traces at hand.

    python benchmarks/finalise/encodings.py TRACE ...

What src/memtrace/dataset_writer.py chose rests on this, on training and decoding of GPT-2.
"""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

COLUMNS = {
    "events": ["time_ns", "address", "allocated_bytes", "active_bytes", "allocation_id",
               "operator_call_id", "stack_id", "block_bytes"],
    "allocations": ["free_seq", "free_time_ns", "release_seq", "release_time_ns", "address"],
    "operators": ["parent_call_id", "start_time_ns", "end_time_ns", "sequence_number"],
}  # fmt: skip
ENCODINGS = ("dictionary", "PLAIN", "DELTA_BINARY_PACKED", "BYTE_STREAM_SPLIT")
LEVELS = (1, 3, 9)


def encoded(table: pa.Table, column: str, encoding: str, level: int) -> tuple[int, float]:
    """Bytes of the column as a file of its own, and the seconds it took."""
    buffer = io.BytesIO()
    start_s = time.perf_counter()
    pq.write_table(
        table.select([column]),
        buffer,
        compression="zstd",
        compression_level=level,
        use_dictionary=encoding == "dictionary",
        column_encoding=None if encoding == "dictionary" else {column: encoding},
        store_schema=False,
    )
    return buffer.tell(), time.perf_counter() - start_s


def main() -> None:
    for trace in map(Path, sys.argv[1:]):
        events = pq.read_table(trace / "events", columns=["seq"]).num_rows
        for dataset, columns in COLUMNS.items():
            parts = [pq.ParquetFile(file) for file in (trace / dataset).glob("*/*.parquet")]
            table = pa.concat_tables(part.read() for part in parts)
            print(f"\n{trace.name} {dataset}: bytes/event (ns/row) by zstd level {LEVELS}")
            for column in columns:
                for encoding in ENCODINGS:
                    cells = []
                    for level in LEVELS:
                        size, seconds = encoded(table, column, encoding, level)
                        ns = seconds / max(table.num_rows, 1) * 1e9
                        cells.append(f"{size / events:7.3f} ({ns:4.0f})")
                    print(f"  {column:18} {encoding:20} {'  '.join(cells)}")


if __name__ == "__main__":
    main()
