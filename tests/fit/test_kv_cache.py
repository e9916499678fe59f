"""What a token costs, from the names of a cache's tensors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fit.made_up import MIB
from memtrace.fit.kv_cache import KvCache, find_kv_cache
from memtrace.fit.served import serve
from memtrace.replay.requests import Requests, read_requests
from memtrace.trace import open_trace
from trace_builder import ProcessBuilder, TraceBuilder


def cache_of(path: Path, calls: list[tuple[int, ...]], elsewhere: int = 0) -> KvCache | None:
    """Of a program whose cache has two tensors of these shapes, of 2 bytes, one after the other."""
    builder = TraceBuilder(path)
    p = builder.process()
    if elsewhere:
        p.alloc("cpu", elsewhere, category="weight")
    held: list[dict[str, object]] = []
    for shape in calls:
        fresh = [tensor(p, name, shape) for name in ("key", "value")]
        for row in held:
            p.free(row)
        held = fresh
    return found_in(read_requests(open_trace(builder.write())))


def found_in(requests: Requests, recorded: Requests | None = None) -> KvCache | None:
    return find_kv_cache(serve(requests, on_gpu=False).outcome, recorded or requests)


def tensor(p: ProcessBuilder, name: str, shape: tuple[int, ...]) -> dict[str, object]:
    size = 2
    for length in shape:
        size *= length
    row = p.alloc("cpu", size, category="kv_cache")
    p.name(row, name, kind="kv_cache", dtype="float16", shape=list(shape))
    return row


def test_the_length_is_what_grows(tmp_path: Path) -> None:
    usual = cache_of(tmp_path / "a.memtrace", [(1, 8, 10, 64), (1, 8, 11, 64)])
    other = cache_of(tmp_path / "b.memtrace", [(1, 10, 8, 64), (1, 11, 8, 64)])
    unknown = cache_of(tmp_path / "c.memtrace", [(1, 8, 11, 64)])
    for found in (usual, other, unknown):
        assert found is not None
        assert found.token_bytes == 2 * 8 * 64 * 2
        assert (found.sequences, found.tokens, found.tensors) == (1, 11, 2)
        assert found.shapes == ((2, (8, 64), 2.0),)


def test_a_program_that_keeps_the_old_cache_has_room_for_half(tmp_path: Path) -> None:
    found = cache_of(tmp_path / "x.memtrace", [(1, 8, 100, 64), (1, 8, 100, 64)])
    assert found is not None
    assert found.times_held == 2
    assert found.longest(2000 * found.token_bytes) == 1000


def test_a_cache_that_the_program_has_labelled(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    p = builder.process()
    for layer in range(3):  # every layer calls it by the same name
        row = p.alloc("cpu", 4 * 10 * 64 * 2, category="kv_cache", module=f"h.{layer}")
        p.name(row, "key", kind="label", dtype="float16", shape=[1, 4, 10, 64])
        p.name(row, "result", kind="output", dtype="float16", shape=[2560])
    requests = read_requests(open_trace(builder.write()))
    found = found_in(requests)
    assert found is not None
    assert (found.tensors, found.token_bytes) == (3, 3 * 4 * 64 * 2)


def test_the_longest_context_has_the_room_that_all_else_leaves(tmp_path: Path) -> None:
    found = cache_of(tmp_path / "x.memtrace", [(3, 8, 10, 64)], elsewhere=5 * MIB)
    assert found is not None
    assert found.elsewhere_bytes == 5 * MIB
    assert found.longest(5 * MIB + 3 * found.token_bytes * 1000 + 1) == 1000
    assert found.longest(5 * MIB) == 0
    assert found.longest(0) == 0


def test_without_shapes_nothing_is_claimed(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    builder.process().alloc("cpu", MIB, category="kv_cache")
    requests = read_requests(open_trace(builder.write()))
    assert found_in(requests) is None


def test_another_batch_and_another_length(tmp_path: Path) -> None:
    """What-ifs change sizes, and say to which dimensions."""
    builder = TraceBuilder(tmp_path / "x.memtrace")
    tensor(builder.process(), "key", (2, 8, 100, 64))
    recorded = read_requests(open_trace(builder.write()))
    for dimensions, times, sequences, tokens in (
        ({"batch": 6}, 3, 6, 100),
        ({"sequence": 300}, 3, 2, 300),
        ({"batch": 6, "sequence": 200}, 6, 6, 200),
        ({}, 1, 2, 100),
    ):
        changed = replace(recorded.resized(recorded.size_bytes * times), dimensions=dimensions)
        found = found_in(changed, recorded)
        assert found is not None
        assert (found.sequences, found.tokens) == (sequences, tokens)
        assert found.token_bytes == 8 * 64 * 2
        assert found.shapes == ((1, (8, 64), 2.0),)
