"""What was live on a device at many instants, summed by what it was: one pass over the rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from memtrace.analyse.counters import Flags, Int64s, counted, equals, integers, may_hold
from memtrace.dataset import RowGroup
from memtrace.trace import Trace

_NEVER = np.iinfo(np.int64).max
_KEYS = ("category", "memory", "pool")
_SIZES = ("block_bytes", "size_bytes", "resident_bytes", "unknown_bytes")


@dataclass(frozen=True)
class Kind:
    """What allocations have in common that are summed: `external` is beside the allocator's."""

    category: str | None
    memory: str | None
    pool: str | None
    external: bool


@dataclass(frozen=True)
class Sums:
    """Of one kind at one instant.

    Attributes:
        block_bytes: what the allocator holds for it; of external memory, its size.
        size_bytes: what was asked for.
        resident_bytes: of external memory, as far as that is known; the rest is `unknown_bytes`.
    """

    block_bytes: int
    size_bytes: int
    resident_bytes: int
    unknown_bytes: int


@dataclass(frozen=True)
class Held:
    """One instant.

    Attributes:
        kinds: what was allocated, by kind.
        whole_free_bytes: of segments of the caching allocator in which nothing was active.
        pools: reserved bytes by pool.
    """

    kinds: dict[Kind, Sums]
    whole_free_bytes: int
    pools: dict[str, int]


def held_at(trace: Trace, process: str, device: str, seqs: Iterable[int]) -> dict[int, Held]:
    """What was live after the event of each `seq`."""
    instants = np.unique(np.fromiter(seqs, np.int64))
    changes: dict[Kind, Int64s] = {}
    active: list[_Blocks] = []
    for group in trace.datasets["allocations"].row_groups(process):
        if not _may_be_live(group, device, instants):
            continue
        _add_allocations(group, device, instants, changes)
        if device != "cpu":
            active.append(_active_blocks(group, device, instants))
    sums = {kind: np.cumsum(change, axis=1) for kind, change in changes.items()}
    whole_free, pools = _segments(trace, process, device, instants, active)
    return {
        int(seq): Held(
            {
                kind: Sums(*map(int, values[:, i]))
                for kind, values in sums.items()
                if values[:, i].any()
            },
            int(whole_free[i]),
            {pool: int(values[i]) for pool, values in pools.items() if values[i]},
        )
        for i, seq in enumerate(instants)
    }


def _may_be_live(group: RowGroup, device: str, instants: Int64s) -> bool:
    if not len(instants) or not may_hold(group, "device", device):
        return False
    starts = group.bounds("alloc_seq")
    ends = group.bounds("free_seq" if device == "cpu" else "release_seq")
    if starts is not None and (starts.low is None or starts.low > instants[-1]):
        return False
    return not (
        ends is not None and ends.nulls == 0 and ends.high is not None and ends.high <= instants[0]
    )


def _lifetimes(
    group: RowGroup, device: str, instants: Int64s, end: str
) -> tuple[Flags, Int64s, Int64s]:
    """Which rows live at any of the instants: from the first on, until the second."""
    table = group.read(["device", "alloc_seq", end])
    first = np.searchsorted(instants, integers(table, "alloc_seq", missing=_NEVER))
    last = np.searchsorted(instants, integers(table, end, missing=_NEVER))
    chosen = (first < last) & equals(table, "device", device)
    return chosen, first[chosen], last[chosen]


def _add_allocations(
    group: RowGroup, device: str, instants: Int64s, changes: dict[Kind, Int64s]
) -> None:
    chosen, first, last = _lifetimes(group, device, instants, "free_seq")
    if not chosen.any():
        return
    names = [*_KEYS, "origin", "block_bytes", "size_bytes", "resident_bytes"]
    rows = group.read(names).filter(pa.array(chosen))
    sizes, external = _sizes(rows), ~counted(rows)
    for kind, members in _kinds(rows, external):
        change = changes.setdefault(kind, np.zeros((len(_SIZES), len(instants) + 1), np.int64))
        for row, values in zip(change, sizes, strict=True):
            np.add.at(row, first[members], values[members])
            np.subtract.at(row, last[members], values[members])


def _sizes(rows: pa.Table) -> list[Int64s]:
    size = integers(rows, "size_bytes")
    block = integers(rows, "block_bytes", missing=-1)
    resident = integers(rows, "resident_bytes", missing=-1)
    known = resident >= 0
    # A block whose size is not known counts for what was asked for.
    return [
        np.where(block < 0, size, block), size, np.where(known, resident, 0),
        np.where(known, 0, size),
    ]  # fmt: skip


def _kinds(rows: pa.Table, external: Flags) -> list[tuple[Kind, Int64s]]:
    """Rows of each kind: their numbers."""
    code = external.astype(np.int64)
    words: list[list[str | None]] = []
    for name in _KEYS:
        column = rows.column(name).combine_chunks()
        encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.combine_chunks()
        found = [*encoded.dictionary.to_pylist(), None]
        codes = encoded.indices.fill_null(len(found) - 1).to_numpy(zero_copy_only=False)
        code = code * len(found) + codes
        words.append(found)
    order = np.argsort(code, kind="stable")
    starts = np.flatnonzero(np.diff(code[order], prepend=-1))
    kinds = []
    for start, end in zip(starts, np.append(starts[1:], len(order)), strict=True):
        rest, values = int(code[order[start]]), []
        for found in reversed(words):
            rest, place = divmod(rest, len(found))
            values.append(found[place])
        pool, memory, category = values
        kinds.append((Kind(category, memory, pool, bool(rest)), order[start:end]))
    return kinds


#: Address and size of each, and the instants from which and until which it was active.
_Blocks = tuple[Int64s, Int64s, Int64s, Int64s]


def _active_blocks(group: RowGroup, device: str, instants: Int64s) -> _Blocks:
    chosen, first, last = _lifetimes(group, device, instants, "release_seq")
    rows = group.read(["address", "block_bytes"])
    return integers(rows, "address")[chosen], integers(rows, "block_bytes")[chosen], first, last


def _segments(
    trace: Trace,
    process: str,
    device: str,
    instants: Int64s,
    active: list[_Blocks],
) -> tuple[Int64s, dict[str, Int64s]]:
    """Bytes in segments without any active block at each instant, and all by pool."""
    whole_free = np.zeros(len(instants), np.int64)
    pools: dict[str, Int64s] = {}
    names = ["device", "address", "size_bytes", "alloc_seq", "free_seq", "pool"]
    table = trace.datasets["segments"].read(names, key=process)
    table = table.filter(pa.array(equals(table, "device", device)))
    if not table.num_rows or not len(instants):
        return whole_free, pools
    address, size = integers(table, "address"), integers(table, "size_bytes")
    start = integers(table, "alloc_seq", missing=_NEVER)
    end = integers(table, "free_seq", missing=_NEVER)
    pool = np.array([word or "default" for word in table.column("pool").to_pylist()])
    block, block_bytes, first, last = (
        (np.concatenate(column) for column in zip(*active, strict=True))
        if active
        else (np.zeros(0, np.int64),) * 4
    )
    for i, seq in enumerate(instants):
        there = np.flatnonzero((start <= seq) & (seq < end))
        there = there[np.argsort(address[there], kind="stable")]
        living = (first <= i) & (i < last)
        used = _touched(address[there], block[living], block_bytes[living])
        whole_free[i] = size[there][~used].sum()
        for word in np.unique(pool[there]):
            bytes_of = pools.setdefault(str(word), np.zeros(len(instants), np.int64))
            bytes_of[i] = size[there][pool[there] == word].sum()
    return whole_free, pools


def _touched(starts: Int64s, block: Int64s, block_bytes: Int64s) -> Flags:
    """Which segments have a block in them: of an expandable one, a block may span several."""
    first = np.searchsorted(starts, block, side="right") - 1
    beyond = np.maximum(np.searchsorted(starts, block + block_bytes, side="left"), first + 1)
    inside = first >= 0
    changes = np.zeros(len(starts) + 1, np.int64)
    np.add.at(changes, first[inside], 1)
    np.subtract.at(changes, beyond[inside], 1)
    touched: Flags = np.cumsum(changes)[:-1] > 0
    return touched
