"""What is reserved and not used, to the byte, and who pins it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memtrace.analyse.fragmentation import Fragmentation, find_fragmentation
from memtrace.errors import MemtraceError
from memtrace.trace import open_trace
from trace_builder import ProcessBuilder, TraceBuilder

MIB = 2**20
BASE = 0x7F00_0000_0000


@dataclass
class Device:
    """Places segments and blocks by hand."""

    process: ProcessBuilder
    name: str = "cuda:0"
    segments: int = 0

    def segment(self, size_mib: int, address_mib: int, **columns: Any) -> dict[str, Any]:
        facts = {"pool": "default", "small": False, "expandable": False, "stream": 0, **columns}
        return self.process.segment(
            self.name, size_mib * MIB, **{**facts, "address": BASE + address_mib * MIB}
        )

    def block(self, size_mib: float, address_mib: float, **columns: Any) -> dict[str, Any]:
        return self.process.alloc(
            self.name, int(size_mib * MIB), address=BASE + int(address_mib * MIB), **columns
        )


@pytest.fixture
def builder(tmp_path: Path) -> TraceBuilder:
    return TraceBuilder(tmp_path / "x.memtrace")


def at_end(builder: TraceBuilder, **how: Any) -> Fragmentation:
    path = builder.write()
    trace = open_trace(path)
    end = builder.processes[0].time_ns
    return find_fragmentation(trace, time_ns=end, **how)


def test_who_pins_what(builder: TraceBuilder) -> None:
    device = Device(builder.process())
    device.segment(20, 0)
    device.segment(20, 40)
    device.segment(20, 80)
    device.segment(2, 120, small=True)
    device.block(1, 0, source="cache.py:101 f", operator="aten::cat", category="kv_cache")
    device.block(2, 10, source="cache.py:101 f", operator="aten::cat", category="kv_cache")
    device.block(4, 40, source="cache.py:101 f", operator="aten::cat", category="kv_cache")
    device.block(3, 47, source="net.py:5 f", module="h.0")
    device.block(0.5, 120.5, source="net.py:5 f", module="h.0")
    found = at_end(builder)
    assert found.reserved_bytes == 62 * MIB
    assert found.allocated_bytes == int(10.5 * MIB)
    assert (found.waiting_bytes, found.mismatch_bytes) == (0, 0)
    assert found.free_bytes == int(51.5 * MIB)
    assert found.empty_bytes == 20 * MIB
    assert found.pinned_bytes == int(31.5 * MIB)
    assert found.largest_free_bytes == 20 * MIB
    cache, net = found.pins
    assert (cache.owner.key, cache.owner.category) == ("cache.py:101 f", "kv_cache")
    assert (cache.blocks, cache.units, cache.block_bytes) == (3, 2, 7 * MIB)
    # 17 MiB of the first segment alone, 13 MiB of the second together with the other.
    assert (cache.pinned_bytes, cache.alone_bytes) == (30 * MIB, 17 * MIB)
    assert cache.keeps_bytes == 17 * MIB + 13 * MIB // 2
    assert (net.keeps_bytes, net.alone_bytes) == (13 * MIB // 2 + 3 * MIB // 2, 3 * MIB // 2)
    large, small = found.parts if not found.parts[0].kind.small else found.parts[::-1]
    assert (large.units, large.largest_free_bytes) == (3, 20 * MIB)
    assert (small.units, small.free_bytes, small.largest_free_bytes) == (1, 3 * MIB // 2, MIB)


def test_blocks_that_wait_pin_too(builder: TraceBuilder) -> None:
    device = Device(builder.process())
    device.segment(20, 0)
    row = device.block(5, 0, source="copy.py:1 f")
    device.process.free(row, hold=True)
    found = at_end(builder)
    assert (found.allocated_bytes, found.waiting_bytes) == (0, 5 * MIB)
    assert found.reserved_bytes - found.allocated_bytes == found.waiting_bytes + found.free_bytes
    (pin,) = found.pins
    assert (pin.waiting_bytes, pin.keeps_bytes) == (5 * MIB, 15 * MIB)


def test_pages_of_expandable_segments_are_pinned_one_by_one(builder: TraceBuilder) -> None:
    device = Device(builder.process())
    for page in range(4):  # mapped side by side; then a hole of one page
        device.segment(20, 20 * page, expandable=True)
    device.segment(20, 100, expandable=True)
    device.block(30, 0, source="a.py:1 f")  # over two pages
    device.block(1, 61, source="b.py:1 f")
    found = at_end(builder)
    assert (found.segments, found.parts[0].units) == (5, 5)
    assert found.empty_bytes == 20 * MIB + 20 * MIB  # the third page, and the one beyond the hole
    assert found.pinned_bytes == 10 * MIB + 19 * MIB
    # From the end of the first block to the second: over pages, as they lie side by side.
    assert found.largest_free_bytes == 31 * MIB
    b, a = found.pins
    assert (a.owner.key, a.keeps_bytes, a.units) == ("a.py:1 f", 10 * MIB, 1)
    assert (b.owner.key, b.keeps_bytes) == ("b.py:1 f", 19 * MIB)


def test_small_pages_are_of_two_mib(builder: TraceBuilder) -> None:
    device = Device(builder.process())
    device.segment(2, 0, expandable=True, small=True)
    device.segment(2, 2, expandable=True, small=True)
    device.block(0.5, 0)
    found = at_end(builder)
    assert (found.empty_bytes, found.pinned_bytes) == (2 * MIB, 3 * MIB // 2)


def test_pools_and_streams_are_apart(builder: TraceBuilder) -> None:
    device = Device(builder.process())
    device.segment(20, 0)
    device.segment(20, 40, stream=7)
    device.segment(20, 80, pool="graph:1:2")
    for place in (0, 40, 80):
        device.block(10, place)
    found = at_end(builder)
    assert [(part.kind.pool, part.kind.stream, part.free_bytes) for part in found.parts] == [
        ("default", 0, 10 * MIB), ("default", 7, 10 * MIB), ("graph:1:2", 0, 10 * MIB),
    ]  # fmt: skip


def test_segments_side_by_side_are_two(builder: TraceBuilder) -> None:
    device = Device(builder.process())
    device.segment(20, 0)
    device.segment(20, 20)
    device.block(10, 0)
    device.block(10, 30)
    found = at_end(builder)
    assert found.largest_free_bytes == 10 * MIB


def test_segments_that_were_given_back_do_not_count(builder: TraceBuilder) -> None:
    device = Device(builder.process())
    gone = device.segment(20, 0)
    device.process.unsegment(gone)
    device.segment(2, 0, small=True)
    device.block(1, 0)
    assert at_end(builder).reserved_bytes == 2 * MIB


def test_at_the_peak_of_reserved(builder: TraceBuilder) -> None:
    device = Device(builder.process())
    device.segment(20, 0)
    device.segment(20, 40)
    device.block(15, 40, source="net.py:1 f")
    found = find_fragmentation(open_trace(builder.write()))
    assert found.why == "peak"
    # The block that the segment was for is in it.
    assert (found.empty_bytes, found.pinned_bytes) == (20 * MIB, 5 * MIB)


def test_grouped(builder: TraceBuilder) -> None:
    device = Device(builder.process())
    device.segment(20, 0)
    device.block(1, 0, module="h.0")
    device.block(1, 4, module="h.1")
    device.block(1, 8, module="")
    pins = at_end(builder, by="module").pins
    assert sum(pin.keeps_bytes for pin in pins) == 17 * MIB
    assert {pin.owner.name for pin in pins} == {"h.0", "h.1", "(outside any module)"}


def test_blocks_in_no_segment_are_told(builder: TraceBuilder) -> None:
    device = Device(builder.process())
    device.segment(20, 0)
    device.block(1, 500)
    found = at_end(builder)
    assert (found.free_bytes, found.allocated_bytes) == (20 * MIB, MIB)
    assert found.pins == ()


def test_the_cpu_has_none(builder: TraceBuilder) -> None:
    builder.process().alloc("cpu", 5)
    with pytest.raises(MemtraceError, match="cpu has no segments"):
        find_fragmentation(open_trace(builder.write()))


def test_a_time_outside_the_recording(builder: TraceBuilder) -> None:
    device = Device(builder.process())
    device.segment(20, 0)
    trace = open_trace(builder.write())
    for time_ns, told in ((1, "nothing recorded of cuda:0"), (10**12, "not within the recording")):
        with pytest.raises(MemtraceError, match=told):
            find_fragmentation(trace, time_ns=time_ns)


# Each segment: its size in units of 512 bytes, and cuts that make blocks of every other piece.
SEGMENTS = st.lists(
    st.tuples(
        st.integers(1, 60),
        st.booleans(),
        st.lists(st.tuples(st.integers(0, 60), st.integers(0, 3), st.booleans()), max_size=8),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(SEGMENTS)
def test_sums_reconcile(
    tmp_path_factory: pytest.TempPathFactory,
    segments: list[tuple[int, bool, list[tuple[int, int, bool]]]],
) -> None:
    builder = TraceBuilder(tmp_path_factory.mktemp("f") / "x.memtrace")
    process = builder.process()
    address = BASE
    pinned = empty = largest = 0
    for units, small, cuts in segments:
        size = units * 512
        process.segment("cuda:0", size, address=address, small=small, pool="default")
        places = sorted({cut[0] for cut in cuts if cut[0] < units} | {0, units})
        owners = {cut[0]: cut for cut in cuts}
        free, run, blocks = 0, 0, 0
        for low, high in pairwise(places):
            _, source, waits = owners.get(low, (0, 0, False))
            if source == 0:
                free += (high - low) * 512
                run += (high - low) * 512
                largest = max(largest, run)
                continue
            run, blocks = 0, blocks + 1
            row = process.alloc(
                "cuda:0", (high - low) * 512, address=address + low * 512, source=f"a:{source}"
            )
            if waits:
                process.free(row, hold=True)
        pinned += free if blocks else 0
        empty += 0 if blocks else free
        address += size
    found = at_end(builder)
    assert found.mismatch_bytes == 0
    assert (found.pinned_bytes, found.empty_bytes) == (pinned, empty)
    assert found.largest_free_bytes == largest
    assert found.reserved_bytes - found.allocated_bytes == found.waiting_bytes + found.free_bytes
    assert sum(pin.keeps_bytes for pin in found.pins) == pinned
    assert sum(part.free_bytes for part in found.parts) == found.free_bytes
    assert sum(part.waiting_bytes for part in found.parts) == found.waiting_bytes
    assert all(pin.alone_bytes <= pin.keeps_bytes <= pin.pinned_bytes for pin in found.pins)
