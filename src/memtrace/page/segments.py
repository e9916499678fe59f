"""A GPU's segments as data of a page, and what its fragmentation is at the peak and at OOMs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from memtrace.analyse.counters import equals, integers, moment_at_seq
from memtrace.analyse.fragmentation import fragmentation_at
from memtrace.analyse.instants import OOM, RESERVED_PEAK, Instants
from memtrace.page.columns import ColumnPacker, Words
from memtrace.page.told import told
from memtrace.report.fragmentation import fragmentation_page
from memtrace.trace import Process, Trace

MOST_SEGMENTS = 50_000
_OWNERS_SHOWN = 15
_OOMS_SHOWN = 4
_NEVER = np.iinfo(np.int64).max


def pack_segments(
    trace: Trace, key: str, device: str, words: Words, columns: ColumnPacker
) -> dict[str, Any] | None:
    """Every segment that there was; of too many, the largest. None for a device without any."""
    table = trace.datasets["segments"].read(key=key)
    table = table.filter(pa.array(equals(table, "device", device)))
    total = table.num_rows
    if not total:
        return None
    if total > MOST_SEGMENTS:
        largest = np.argsort(-integers(table, "size_bytes"), kind="stable")[:MOST_SEGMENTS]
        table = table.take(pa.array(np.sort(largest)))
    born = integers(table, "alloc_seq")
    free = integers(table, "free_seq", missing=_NEVER)
    pools = [words.number(name) for name in table.column("pool").to_pylist()]
    flags = [
        (1 if small else 0) + (2 if expandable else 0)
        for small, expandable in zip(
            table.column("small").to_pylist(), table.column("expandable").to_pylist(), strict=True
        )
    ]
    return {
        "total": total,
        "address": columns.add(integers(table, "address")),
        "bytes": columns.add(integers(table, "size_bytes")),
        "born": columns.add(born, delta=True),
        "lived": columns.add(np.where(free == _NEVER, 0, free - born)),
        "pool": columns.add(pools),
        "flags": columns.add(flags),
    }


def fragmentation_told(
    trace: Trace, process: Process, device: str, instants: Instants
) -> list[dict[str, Any]]:
    """`memtrace fragmentation`, at the peak of reserved bytes and at the last failed requests."""
    if device == "cpu":
        return []
    chosen = [i for i in instants.chosen if i.kind == RESERVED_PEAK]
    chosen += [i for i in instants.chosen if i.kind == OOM][:_OOMS_SHOWN]
    found = []
    for instant in chosen:
        moment = moment_at_seq(trace, process=process.key, device=device, seq=instant.seq)
        why = "oom" if instant.kind == OOM else "peak"
        layout = fragmentation_at(trace, moment, process, why=why, by="source")
        found.append(
            {"seq": instant.seq, "told": told(fragmentation_page(layout, top=_OWNERS_SHOWN))}
        )
    return found
