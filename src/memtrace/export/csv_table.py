"""The table `allocations` as CSV, for a spreadsheet; Parquet is what everything else reads."""

from __future__ import annotations

from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.csv

from memtrace.analyse.counters import equals, integers
from memtrace.outputs import Selection
from memtrace.schema import SCHEMAS
from memtrace.trace import Trace

_NEVER = np.iinfo(np.int64).max


def write_csv(trace: Trace, selection: Selection, out: IO[bytes]) -> None:
    """A row for each allocation that was live in the window, with the process it was made by."""
    schema = SCHEMAS["allocations"]
    header = True
    for process in trace.process_list:
        for group in trace.datasets["allocations"].row_groups(process.key):
            table = group.read(schema.names)
            chosen = np.ones(table.num_rows, np.bool_)
            if selection.device is not None:
                chosen &= equals(table, "device", selection.device)
            if selection.window_ns is not None:
                start, end = selection.window_ns
                chosen &= integers(table, "alloc_time_ns") <= end
                chosen &= integers(table, "free_time_ns", missing=_NEVER) >= start
            rows = table.filter(pa.array(chosen)).cast(schema)
            keys = pa.array([process.key] * rows.num_rows, pa.string())
            rows = rows.add_column(0, "process", keys)
            options = pa.csv.WriteOptions(include_header=header)
            pa.csv.write_csv(rows, out, options)
            header = False
