"""A made-up training on a small GPU, as the allocator would have served it, event for event."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trace_builder import ProcessBuilder, TraceBuilder

MIB = 1 << 20
BASE = 1 << 40
TOTAL_BYTES = 512 * MIB
OUTSIDE_BYTES = 12 * MIB


def device_row(total_bytes: int = TOTAL_BYTES) -> str:
    """The `devices` of a process."""
    return json.dumps([{"device": "cuda:0", "name": "Small", "total_bytes": total_bytes}])


def settings(conf: str = "", **facts: Any) -> str:
    """The text of a `settings` mark."""
    return json.dumps({"conf": conf, "expandable_segments": False, "max_split_size": -1, **facts})


def segment(p: ProcessBuilder, address: int, size_bytes: int) -> dict[str, Any]:
    """A segment of the large pool."""
    return p.segment("cuda:0", size_bytes, address=address, pool="default", small=False,
                     expandable=False, stream=0)  # fmt: skip


def alloc(p: ProcessBuilder, address: int, size_bytes: int, **columns: Any) -> dict[str, Any]:
    """An allocation of the main thread's."""
    told = {"operator": "aten::mm", "module": "h.0", "source": "model.py:88 forward", "stack_id": 1}
    return p.alloc("cuda:0", size_bytes, address=address, stream=0, **{**told, **columns})


def training(path: Path, *, moved: int = 0, **row: Any) -> Path:
    """Two steps: 30 MiB, and 3 MiB twice; then 40 MiB in a segment of its own.

    moved: by so much the last block lies beside where the allocator would put it.
    """
    builder = TraceBuilder(path)
    p = builder.process(devices=device_row(), torch_version="2.11.0", **row)
    p.stack(1, ("forward", "/srv/model.py", 88), ("main", "/srv/train.py", 30))
    p.mark("settings", text=settings())
    segment(p, BASE, 30 * MIB)
    first = alloc(p, BASE, 30 * MIB)
    p.sample("cuda:0", "torch", "reserved_bytes.current", 30 * MIB)
    p.sample("cuda:0", "mem_get_info", "used", 30 * MIB + OUTSIDE_BYTES)
    segment(p, BASE + 64 * MIB, 20 * MIB)
    small = [alloc(p, BASE + (64 + 3 * i) * MIB, 3 * MIB, operator="aten::add") for i in range(2)]
    p.free(first)
    for one in small:
        p.free(one)
    segment(p, BASE + 128 * MIB, 40 * MIB)
    alloc(p, BASE + 128 * MIB + moved, 40 * MIB, operator="aten::cat", module="head")
    return builder.write()
