"""What calls of models say of tensors, joined to the allocations that are live then."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from memtrace.finalise import finalise
from spool_writer import SpoolWriter, rows


def names(trace_dir: Path) -> list[tuple[Any, ...]]:
    columns = ("allocation_id", "name", "kind", "offset_bytes", "shape", "dtype", "since_seq")
    return [tuple(row[column] for column in columns) for row in rows(trace_dir, "names")]


def test_a_name_is_the_live_allocations(trace_dir: Path) -> None:
    spool = SpoolWriter(trace_dir)
    log = spool.log()
    log.alloc(1, 0x1000, 64)
    log.tensor(2, 0x1000, "x", "input", "float32 2x8")
    log.tensor(3, 0x1000, "x", "input", "float32 2x8")  # said again
    log.tensor(4, 0x1000, "y", "output", "int64", offset=8)
    log.tensor(5, 0x9000, "of numpy", "input", "float64 3")
    log.free(6, 0x1000)
    log.alloc(7, 0x1000, 64)
    log.tensor(8, 0x1000, "x", "input", "float32 2x8")
    log.alloc(9, 0x1000, 64, device=0, order=1)
    log.tensor(10, 0x1000, "z", "kv_cache", "bfloat16 1x0x3", device=0)
    spool.finish()
    finalise(trace_dir)
    assert names(trace_dir) == [
        (1, "x", "input", 0, [2, 8], "float32", 1),
        (1, "y", "output", 8, [], "int64", 1),
        (2, "x", "input", 0, [2, 8], "float32", 3),
        (3, "z", "kv_cache", 0, [1, 0, 3], "bfloat16", 4),
    ]
    found = [(row["label"], row["category"]) for row in rows(trace_dir, "allocations")]
    assert found == [("x", "input"), ("x", "input"), ("z", "kv_cache")]


def test_the_label_is_the_name_that_proves_most(trace_dir: Path) -> None:
    spool = SpoolWriter(trace_dir)
    log = spool.log()
    facts = {"bytes": 64, "device": "cpu", "memory": None, "shape": [16], "dtype": "float32"}
    for i in range(3):
        log.alloc(1 + i, 0x1000 * (i + 1), 64)
    for i in range(3):
        log.tensor(10 + i, 0x1000 * (i + 1), "logits", "output", "float32 16")
        log.tensor(20 + i, 0x1000 * (i + 1), "cache layer 0 key", "kv_cache", "float32 16")
        log.tensor(30 + i, 0x1000 * (i + 1), "x", "input", "float32 16")
    spool.tensor(ticks=40, address=0x2000, name="l.weight", kind="weight", **facts)
    spool.tensor(ticks=41, address=0x3000, name="mine", kind="label", label="mine", **facts)
    spool.tensor(ticks=42, address=0x3000, name="l.bias", kind="weight", **facts)
    log.alloc(50, 0x9000, 8)
    spool.finish()
    finalise(trace_dir)
    labels = [row["label"] for row in rows(trace_dir, "allocations")]
    assert labels == ["cache layer 0 key", "l.weight", "mine", None]


def test_damaged_layouts_do_no_harm(trace_dir: Path) -> None:
    spool = SpoolWriter(trace_dir)
    log = spool.log()
    log.alloc(1, 0x1000, 64)
    for layout in (
        "",
        " ",
        "float32 ",
        "float32 2x",
        "float32 axb",
        "float32 99999999999999999999",
    ):
        log.tensor(2, 0x1000, "x", "input", layout)
    spool.finish()
    finalise(trace_dir)
    assert {row[1] for row in names(trace_dir)} == {"x"}
    assert sys.maxsize not in [size for row in names(trace_dir) for size in row[4]]
