"""The least capacity with which a program completes, and the truth of it."""

from __future__ import annotations

from pathlib import Path

from fit.made_up import MIB
from memtrace.fit.served import Served, serve
from memtrace.replay.requests import read_requests
from memtrace.trace import open_trace
from trace_builder import TraceBuilder


def of_blocks(path: Path, *sizes: int, device: str = "cuda:0") -> Served:
    """Of a program that allocates and frees one block after the other."""
    builder = TraceBuilder(path)
    p = builder.process()
    for size in sizes:
        p.free(p.alloc(device, size * MIB))
    return serve(read_requests(open_trace(builder.write())), on_gpu=True)


def test_what_is_cached_is_given_back(tmp_path: Path) -> None:
    served = of_blocks(tmp_path / "x.memtrace", 30, 50, 40)
    assert served.outcome.peak("reserved").total_bytes == 80 * MIB
    assert (served.low_bytes, served.high_bytes) == (50 * MIB, 50 * MIB)


def test_a_small_block_needs_a_whole_segment(tmp_path: Path) -> None:
    assert of_blocks(tmp_path / "x.memtrace", 2).low_bytes == 20 * MIB


def test_the_cpu_as_it_is_and_as_a_gpu(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    p = builder.process()
    p.alloc("cpu", 1000)
    p.alloc("cpu", 3 * MIB)
    requests = read_requests(open_trace(builder.write()))
    assert serve(requests, on_gpu=False).low_bytes == 3 * MIB + 1000
    served = serve(requests, on_gpu=True)
    assert served.outcome.peak().total_bytes == 3 * MIB + 1024
    assert served.low_bytes == (2 + 20) * MIB


def test_what_was_there_before_the_recording_counts(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    p = builder.process()
    p.segment("cuda:0", 20 * MIB, address=0x7F00_0000_0000)
    p.alloc("cuda:0", 5 * MIB, action="preexisting", address=0x7F00_0000_0000)
    served = serve(read_requests(open_trace(builder.write())), on_gpu=True)
    assert served.low_bytes >= 5 * MIB
