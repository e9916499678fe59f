"""The settings that a recording has, and that a made-up trace may have instead."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from memtrace.analyse.allocator_settings import (
    MIB,
    allocator_settings,
    large_segment_bytes,
    page_bytes,
)
from memtrace.export.snapshot import write_snapshot
from memtrace.outputs import Selection
from memtrace.trace import Process, open_trace
from trace_builder import TraceBuilder

RECORDED: dict[str, Any] = {
    "conf": "large_segment_size_mb:32",
    "expandable_segments": True,
    "max_split_size": 64 * MIB,
    "garbage_collection_threshold": 0.5,
    "roundup_power2_divisions": [0, 1, 8, *[0] * 13],
    "large_segment_size": 32 * MIB,
    "max_non_split_rounding": 40 * MIB,
}


@pytest.fixture
def builder(tmp_path: Path) -> TraceBuilder:
    return TraceBuilder(tmp_path / "trace.memtrace")


def recorded(builder: TraceBuilder, text: str | None) -> Process:
    builder.process(allocator_settings=text).alloc("cuda:0", 512)
    (process,) = open_trace(builder.write()).process_list
    return process


def test_what_was_recorded(builder: TraceBuilder) -> None:
    process = recorded(builder, json.dumps(RECORDED))
    assert allocator_settings(process) == RECORDED
    assert large_segment_bytes(process) == page_bytes(False, process) == 32 * MIB
    assert page_bytes(True, process) == 2 * MIB


@pytest.mark.parametrize(
    "text", [None, "", "[]", "7", '{"conf"', "[" * 100_000, "{}"], ids=lambda text: str(text)[:8]
)
def test_nothing_that_can_be_read(text: str | None, builder: TraceBuilder) -> None:
    process = recorded(builder, text)
    assert allocator_settings(process) == {}
    assert large_segment_bytes(process) == 20 * MIB


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("conf", ["a"]),
        ("expandable_segments", "yes"),
        ("max_split_size", -1),
        ("max_split_size", True),
        ("max_split_size", 1 << 60),
        ("garbage_collection_threshold", 1e308),
        ("garbage_collection_threshold", float("nan")),
        ("roundup_power2_divisions", {"a": 1}),
        ("roundup_power2_divisions", [0, 3]),
        ("roundup_power2_divisions", [1 << 55]),
        ("large_segment_size", 1),
        ("large_segment_size", None),
        ("large_segment_size", [20 * MIB]),
        ("max_non_split_rounding", 0),
        ("what_torch_has_not", 1),
    ],
)
def test_what_torch_would_refuse_is_left_out(name: str, value: Any, builder: TraceBuilder) -> None:
    process = recorded(builder, json.dumps({**RECORDED, name: value}))
    assert allocator_settings(process) == {n: v for n, v in RECORDED.items() if n != name}
    assert large_segment_bytes(process) == (20 if name == "large_segment_size" else 32) * MIB
    write_snapshot(open_trace(builder.path), Selection(), io.BytesIO())
