"""Which allocations were live at a place in the order of events."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from memtrace.analyse.counters import Flags, Int64s, Moment, counted, equals, integers, may_hold
from memtrace.dataset import RowGroup
from memtrace.schema import SCHEMAS
from memtrace.trace import Trace

#: int64, added to the rows of a live set: what each one counts for in the measure asked for.
BYTES = "bytes"
_NEVER = np.iinfo(np.int64).max


def live_allocations(
    trace: Trace, moment: Moment, *, of: str, columns: Sequence[str], external: bool = False
) -> pa.Table:
    """Rows of `allocations` live on the moment's device, with `bytes` for the measure.

    A block leaves *allocated* when its free is requested; it leaves *active* and *requested* when
    that is completed; what holds *reserved* memory is what is active in it.

    Args:
        external: the memory that never went through the allocator (mapped weights) instead of
            what its totals count.
    """
    end = end_column(of, moment.device)
    weight = "size_bytes" if of == "requested" or external else "block_bytes"
    names = list(dict.fromkeys([*columns, "size_bytes", weight]))
    schema = pa.schema([SCHEMAS["allocations"].field(name) for name in names])
    tables = [schema.empty_table().append_column(BYTES, pa.array([], pa.int64()))]
    for group in trace.datasets["allocations"].row_groups(moment.process):
        if _is_dead(group, moment, end) or (external and not may_hold(group, "origin", "external")):
            continue
        keys = group.read(["device", "alloc_seq", end, "origin"])
        live = _live(keys, moment, end)
        live &= ~counted(keys) if external else counted(keys)
        if not live.any():
            continue
        rows = group.read(names).filter(pa.array(live)).cast(schema)
        held = weights(rows, of="requested" if external else of)
        tables.append(rows.append_column(BYTES, pa.array(held, pa.int64())))
    return pa.concat_tables(tables)


def end_column(of: str, device: str) -> str:
    """The column of `allocations` that says when a row leaves a measure."""
    return "free_seq" if of == "allocated" or device == "cpu" else "release_seq"


def weights(rows: pa.Table, *, of: str) -> Int64s:
    """What each row counts for in a measure, in bytes; of rows with both sizes."""
    size = integers(rows, "size_bytes")
    if of == "requested":
        return size
    block = integers(rows, "block_bytes", missing=-1)
    # A block whose size is not known (CPU, or lost) counts for what was asked for.
    return np.where(block < 0, size, block)


def _live(keys: pa.Table, moment: Moment, end: str) -> Flags:
    started = integers(keys, "alloc_seq", missing=_NEVER) <= moment.seq
    not_ended = integers(keys, end, missing=_NEVER) > moment.seq
    return started & not_ended & equals(keys, "device", moment.device)


def _is_dead(group: RowGroup, moment: Moment, end: str) -> bool:
    """True only when the footer proves that no row of the group is live at the moment."""
    if not may_hold(group, "device", moment.device):
        return True
    starts, ends = group.bounds("alloc_seq"), group.bounds(end)
    if starts is not None and (starts.low is None or starts.low > moment.seq):
        return True
    return bool(
        ends is not None and ends.nulls == 0 and ends.high is not None and ends.high <= moment.seq
    )
