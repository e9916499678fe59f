"""The weights and buffers that a model holds, in torch's own memory or in mapped files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from memtrace.analyse.counters import Moment, counted, equals, integers, may_hold, moment_at_seq
from memtrace.analyse.live_set import BYTES, live_allocations
from memtrace.analyse.snapshot import External, external_of
from memtrace.trace import Trace


@dataclass(frozen=True)
class Weights:
    """What models held at one instant; each allocation once, however many tensors share it.

    Attributes:
        weight_bytes, buffer_bytes: allocated and mapped together.
        fp32_weight_bytes: weights that are known to be float32.
        mapped_weight_bytes: weights and buffers in memory that torch's allocator did not give (a
            file mapped by safetensors, shared memory), and how much of it was resident.
    """

    weight_bytes: int = 0
    buffer_bytes: int = 0
    fp32_weight_bytes: int = 0
    mapped_weight_bytes: int = 0
    mapped_weight_resident_bytes: int = 0


def weights_at(trace: Trace, moment: Moment, allocated: pa.Table | None = None) -> Weights:
    """The weights and buffers that were live on the moment's device.

    Args:
        allocated: what was live of the allocator's memory, where that has been read already.
    """
    columns = ["allocation_id", "category"]
    if allocated is None:
        allocated = live_allocations(trace, moment, of="allocated", columns=columns)
    mapped = live_allocations(
        trace, moment, of="allocated", columns=[*columns, "resident_bytes"], external=True
    )
    live = pa.concat_tables([table.select([*columns, BYTES]) for table in (allocated, mapped)])
    weights, buffers = _of(live, "weight"), _of(live, "buffer")
    mapped_rows = pa.concat_tables([_of(mapped, "weight"), _of(mapped, "buffer")])
    return Weights(
        weight_bytes=_sum(weights, BYTES),
        buffer_bytes=_sum(buffers, BYTES),
        fp32_weight_bytes=_fp32_bytes(trace, moment.process, weights),
        mapped_weight_bytes=_sum(mapped_rows, BYTES),
        mapped_weight_resident_bytes=_sum(mapped_rows, "resident_bytes"),
    )


def largest_external(trace: Trace, *, process: str, device: str) -> tuple[Moment, External] | None:
    """The instant at which most memory beside the allocator's was known; None when none ever was.

    Models are looked at when they are called: at the peak of allocated, which is often a moment of
    loading, none of it may be known yet.
    """
    starts, ends, sizes = [], [], []
    for group in trace.datasets["allocations"].row_groups(process):
        if not (may_hold(group, "origin", "external") and may_hold(group, "device", device)):
            continue
        table = group.read(["device", "origin", "alloc_seq", "free_seq", "size_bytes"])
        chosen = equals(table, "device", device) & ~counted(table)
        starts.append(integers(table, "alloc_seq")[chosen])
        ends.append(integers(table, "free_seq", missing=-1)[chosen])
        sizes.append(integers(table, "size_bytes")[chosen])
    if not sum(map(len, starts)):
        return None
    start, end, size = (np.concatenate(columns) for columns in (starts, ends, sizes))
    freed = end >= 0
    # Ends first: memory that is seen anew ends and begins in one event.
    seqs = np.concatenate([end[freed], start])
    deltas = np.concatenate([-size[freed], size])
    order = np.argsort(seqs, kind="stable")
    seq = int(seqs[order][np.cumsum(deltas[order]).argmax()])
    moment = moment_at_seq(trace, process=process, device=device, seq=seq)
    live = live_allocations(
        trace, moment, of="allocated", columns=["memory", "resident_bytes"], external=True
    )
    return moment, external_of(live)


def _of(live: pa.Table, category: str) -> pa.Table:
    return live.filter(pa.array(equals(live, "category", category)))


def _sum(table: pa.Table, column: str) -> int:
    return int(integers(table, column).sum())


def _fp32_bytes(trace: Trace, key: str, weights: pa.Table) -> int:
    """Bytes of the weights whose tensors are float32."""
    if not weights.num_rows:
        return 0
    ids: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
    for group in trace.datasets["names"].row_groups(key):
        names = group.read(["allocation_id", "kind", "dtype"])
        is_fp32 = equals(names, "dtype", "float32") | equals(names, "dtype", "torch.float32")
        ids.append(integers(names, "allocation_id", missing=-1)[is_fp32])
    if not ids:
        return 0
    fp32 = np.isin(integers(weights, "allocation_id"), np.concatenate(ids))
    return int(integers(weights, BYTES)[fp32].sum())
