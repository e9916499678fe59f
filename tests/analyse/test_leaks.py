"""What steps leave behind: growth, warm-up, caches, and what only looks like one of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memtrace.analyse.leaks import (
    CACHE,
    CARRIED,
    GROWTH,
    IRREGULAR,
    WARM_UP,
    DeviceLeaks,
    Leaks,
    find_leaks,
)
from memtrace.errors import MemtraceError
from memtrace.trace import open_trace
from trace_builder import ProcessBuilder, TraceBuilder

KIB = 1024
Body = Callable[[ProcessBuilder, int], None]


def run(tmp_path: Path, body: Body, steps: int = 40, **how: Any) -> Leaks:
    """A made-up program that calls a model and then does what `body` says, so many times."""
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    process.alloc("cpu", 5000, source="load.py:1 load")
    for step in range(steps):
        process.short_step()
        process.free(process.alloc("cpu", 700, source="net.py:5 forward"))
        body(process, step)
    return find_leaks(open_trace(builder.write(rows_per_group=50)), **how)


def only(leaks: Leaks) -> DeviceLeaks:
    (device,) = leaks.devices
    return device


def test_a_list_that_grows(tmp_path: Path) -> None:
    def body(process: ProcessBuilder, step: int) -> None:
        process.alloc(
            "cpu", 2 * KIB, source="train.py:42 main", operator="aten::mm", module="h.3.mlp",
            category="other",
        )  # fmt: skip

    leaks = run(tmp_path, body)
    device = only(leaks)
    (site,) = device.sites
    assert (site.kind, site.owner.key) == (GROWTH, "train.py:42 main")
    assert (site.owner.operator, site.owner.module) == ("aten::mm", "h.3.mlp")
    # What the last step left is not known: the last look is where it begins.
    assert (site.kept_bytes, site.kept_blocks, device.kept_bytes) == (
        39 * 2 * KIB,
        39,
        39 * 2 * KIB,
    )
    assert device.before_bytes == 5000
    assert site.growth is not None
    assert site.growth.bytes_per_step == device.bytes_per_step == 2 * KIB
    assert (site.growth.rises, site.growth.intervals, site.growth.every) == (19, 19, 1)
    assert leaks.steps.what == "calls of Net"
    assert device.steps_until_full is None
    assert [(s.born_bytes, s.left_bytes, s.kept_bytes) for s in device.steps[-3:]] == [
        (2 * KIB + 700, 2 * KIB, 2 * KIB), (2 * KIB + 700, 0, 2 * KIB), (2 * KIB + 700, 0, 0),
    ]  # fmt: skip


def test_what_grows_is_told_not_what_was_kept_before(tmp_path: Path) -> None:
    def body(process: ProcessBuilder, step: int) -> None:
        line = {"source": "train.py:6 main"}
        if step == 0:
            state = {"category": "optimizer_state", "operator": "aten::zeros_like"}
            process.alloc("cpu", 1_000_000, **line, **state)
        process.alloc("cpu", 10, **line, category="other", operator="aten::clone")

    (site,) = only(run(tmp_path, body)).growing
    assert (site.owner.category, site.owner.operator) == ("other", "aten::clone")
    assert site.kept_bytes == 1_000_000 + 39 * 10


def test_every_tenth_step(tmp_path: Path) -> None:
    def body(process: ProcessBuilder, step: int) -> None:
        if step % 10 == 9:
            process.alloc("cpu", 1000, source="log.py:3 log")

    (site,) = only(run(tmp_path, body, steps=100)).sites
    assert site.growth is not None
    assert site.growth.bytes_per_step == pytest.approx(100)
    assert (site.growth.every, site.growth.rises) == (10, 4)


def test_memory_that_is_replaced_by_a_larger_one(tmp_path: Path) -> None:
    held: list[dict[str, Any]] = []

    def body(process: ProcessBuilder, step: int) -> None:
        held.append(process.alloc("cpu", 100 * (step + 1), source="cat.py:8 extend"))
        if step:
            process.free(held[step - 1])

    (site,) = only(run(tmp_path, body)).sites
    assert site.kind == GROWTH
    assert site.growth is not None
    assert site.growth.bytes_per_step == 100


def test_a_kv_cache_grows_within_a_request(tmp_path: Path) -> None:
    held: list[dict[str, Any]] = []

    def body(process: ProcessBuilder, step: int) -> None:
        row = {"source": "cache.py:8 update", "category": "kv_cache"}
        held.append(process.alloc("cpu", 100 * (step + 1), **row))
        if step:
            process.free(held[step - 1])

    (site,) = only(run(tmp_path, body)).sites
    assert (site.kind, site.growth) == (CARRIED, None)


def test_a_kv_cache_that_is_kept_for_ever_is_a_leak(tmp_path: Path) -> None:
    def body(process: ProcessBuilder, step: int) -> None:
        process.alloc("cpu", 100, source="cache.py:8 update", category="kv_cache")

    (site,) = only(run(tmp_path, body)).sites
    assert site.kind == GROWTH


def test_warm_up_is_kept_from_the_first_steps(tmp_path: Path) -> None:
    def body(process: ProcessBuilder, step: int) -> None:
        if step < 3:
            process.alloc("cpu", 500, source="adam.py:9 step")

    (site,) = only(run(tmp_path, body)).sites
    assert (site.kind, site.kept_bytes, site.early_bytes) == (WARM_UP, 1500, 1500)


def test_what_the_last_step_left_may_be_replaced_by_the_next(tmp_path: Path) -> None:
    held: list[dict[str, Any]] = []

    def body(process: ProcessBuilder, step: int) -> None:
        if step < 3:
            process.alloc("cpu", 500, source="train.py:9 step")
        if held:
            process.free(held.pop())
        held.append(process.alloc("cpu", 64, source="train.py:9 step"))

    (site,) = only(run(tmp_path, body)).sites
    assert (site.kind, site.kept_bytes, site.early_bytes) == (WARM_UP, 1564, 1500)


def test_a_cache_evicts(tmp_path: Path) -> None:
    held: dict[int, dict[str, Any]] = {}

    def body(process: ProcessBuilder, step: int) -> None:
        if step % 5 in held:
            process.free(held.pop(step % 5))
        held[step % 5] = process.alloc("cpu", 64, source="lru.py:2 put")

    (site,) = only(run(tmp_path, body)).sites
    assert (site.kind, site.kept_bytes, site.kept_blocks) == (CACHE, 5 * 64, 5)


def test_a_cache_that_is_cleared_now_and_then(tmp_path: Path) -> None:
    held: list[dict[str, Any]] = []

    def body(process: ProcessBuilder, step: int) -> None:
        if step % 7 == 0:
            while held:
                process.free(held.pop())
        held.append(process.alloc("cpu", 64, source="batch.py:2 put"))

    (site,) = only(run(tmp_path, body)).sites
    assert site.kind in (CACHE, IRREGULAR)
    assert site.growth is None


def test_what_each_step_replaces(tmp_path: Path) -> None:
    held: list[dict[str, Any]] = []

    def body(process: ProcessBuilder, step: int) -> None:
        if held:
            process.free(held.pop())
        held.append(process.alloc("cpu", 64 + step % 3, source="loss.py:2 loss"))

    (site,) = only(run(tmp_path, body)).sites
    assert (site.kind, site.kept_blocks) == (CARRIED, 1)


@pytest.mark.parametrize("seed", range(20))
def test_sizes_that_differ_at_random_do_not_grow(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    carried: list[dict[str, Any]] = []
    cached: list[dict[str, Any]] = []

    def body(process: ProcessBuilder, step: int) -> None:
        if carried:
            process.free(carried.pop())
        carried.append(process.alloc("cpu", int(random.integers(1, 9999)), source="batch.py:2 f"))
        cached.append(process.alloc("cpu", int(random.integers(1, 9999)), source="lru.py:2 f"))
        while len(cached) > 6:
            process.free(cached.pop(int(random.integers(0, 6))))

    device = only(run(tmp_path, body, steps=int(random.integers(8, 60))))
    assert device.growing == ()


def test_growth_among_memory_that_differs_at_random(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    carried: list[dict[str, Any]] = []

    def body(process: ProcessBuilder, step: int) -> None:
        if carried:
            process.free(carried.pop())
        carried.append(process.alloc("cpu", int(random.integers(1, 9)), source="a.py:2 f"))
        process.alloc("cpu", 100, source="a.py:2 f")

    (site,) = only(run(tmp_path, body)).sites
    assert site.growth is not None
    assert site.growth.bytes_per_step == pytest.approx(100, abs=1)


def test_a_single_late_allocation_is_no_growth(tmp_path: Path) -> None:
    def body(process: ProcessBuilder, step: int) -> None:
        if step in (25, 30):
            process.alloc("cpu", 64, source="eval.py:2 eval")

    (site,) = only(run(tmp_path, body)).sites
    assert (site.kind, site.kept_bytes, site.early_bytes) == (IRREGULAR, 128, 0)


def test_a_cache_that_has_filled_up_is_no_growth(tmp_path: Path) -> None:
    def body(process: ProcessBuilder, step: int) -> None:
        if step < 28:
            process.alloc("cpu", 64, source="fill.py:2 put")

    (site,) = only(run(tmp_path, body)).sites
    assert site.kind == IRREGULAR


def test_no_leak(tmp_path: Path) -> None:
    device = only(run(tmp_path, lambda process, step: None))
    assert (device.sites, device.growing, device.kept_bytes) == ((), (), 0)


def test_too_few_steps_say_nothing(tmp_path: Path) -> None:
    leaks = run(tmp_path, lambda p, step: p.alloc("cpu", 64, source="a.py:1 f") and None, steps=7)
    assert not leaks.enough_steps
    assert only(leaks).growing == ()
    assert only(leaks).kept_bytes == 6 * 64


def test_the_steepest_first_and_when_the_device_is_full(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    process.alloc("cuda:0", 2**30)
    for _ in range(20):
        process.short_step()
        process.alloc("cuda:0", 512, source="small.py:1 f")
        process.alloc("cuda:0", 4096, source="large.py:1 f")
        process.alloc("cpu", 8, source="host.py:1 f")
    leaks = find_leaks(open_trace(builder.write()))
    gpu, cpu = leaks.devices
    assert [site.owner.key for site in gpu.growing] == ["large.py:1 f", "small.py:1 f"]
    assert gpu.bytes_per_step == 4608
    assert gpu.steps_until_full == (79 * 2**30 - 19 * 4608) // 4608
    assert (cpu.device, cpu.bytes_per_step) == ("cpu", 8)
    assert [d.device for d in find_leaks(open_trace(builder.path), device="cpu").devices] == ["cpu"]


def test_groups_by_any_column(tmp_path: Path) -> None:
    def body(process: ProcessBuilder, step: int) -> None:
        process.alloc("cpu", 64, source=f"a.py:{step % 2} f", module="h", operator=None)

    assert len(only(run(tmp_path, body)).growing) == 2
    for by, key in (("module", "h"), ("operator", None), ("category", "other")):
        (site,) = only(run(tmp_path, body, by=by)).growing
        assert site.owner.key == key
        assert site.growth is not None
        assert site.growth.bytes_per_step == 64
    assert site.owner.name == "other"
    with pytest.raises(MemtraceError, match="cannot group by colour"):
        run(tmp_path, body, by="colour")


def test_stages_where_no_model_was_called(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    for _ in range(12):
        with process.stage("epoch"):
            process.alloc("cpu", 64, source="a.py:1 f")
        with process.stage("validate"):
            process.alloc("cpu", 1)
    with process.stage("epoch"):
        process.alloc("cpu", 64, source="a.py:1 f")
    path = builder.write()
    leaks = find_leaks(open_trace(path))
    assert (len(leaks.steps), leaks.steps.what) == (13, 'stages "epoch"')
    assert only(leaks).growing[0].owner.key == "a.py:1 f"
    assert len(find_leaks(open_trace(path), stage="validate").steps) == 12
    with pytest.raises(MemtraceError, match="no stage 'train'; it has epoch, validate"):
        find_leaks(open_trace(path), stage="train")


def test_stages_where_a_model_was_called_once(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    process.short_step()
    process.alloc("cpu", 1)
    path = builder.write()
    assert find_leaks(open_trace(path)).steps.what == "calls of Net"
    for _ in range(3):
        with process.stage("request"):
            process.alloc("cpu", 64)
    assert find_leaks(open_trace(builder.write())).steps.what == 'stages "request"'


def test_without_steps_it_says_what_to_do(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    builder.process().alloc("cpu", 64)
    with pytest.raises(MemtraceError, match=r"has no steps: .*memtrace\.stage"):
        find_leaks(open_trace(builder.write()))


def test_more_steps_than_are_looked_at(tmp_path: Path) -> None:
    def body(process: ProcessBuilder, step: int) -> None:
        process.alloc("cpu", 10, source="a.py:1 f")

    device = only(run(tmp_path, body, steps=1300))
    (site,) = device.sites
    assert site.growth is not None
    assert site.growth.bytes_per_step == pytest.approx(10)
    assert site.growth.every == 1
    assert site.growth.rises == site.growth.intervals
    assert sum(step.count for step in device.steps) == 1300
    assert sum(step.born_bytes for step in device.steps) == 1300 * 710
    assert device.steps[-1].first == 1299
    # What the first steps left is theirs, also where they are not looked at one by one.
    assert device.before_bytes == 5000
    assert device.kept_bytes == 1299 * 10


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 4), st.integers(0, 12)), max_size=60),
    st.integers(1, 15),
)
def test_groups_and_steps_sum_to_what_is_live(
    tmp_path_factory: pytest.TempPathFactory, blocks: list[tuple[int, int, int]], steps: int
) -> None:
    builder = TraceBuilder(tmp_path_factory.mktemp("h") / "x.memtrace")
    process = builder.process()
    process.alloc("cpu", 1)
    pending: list[tuple[int, dict[str, Any]]] = []
    chunks = np.array_split(np.arange(len(blocks)), steps)
    live = 0
    for step, chunk in enumerate(chunks):
        process.short_step()
        live = process.totals["cpu"]["allocated"]
        for place in chunk.tolist():
            size, source, lives = blocks[place]
            row = process.alloc("cpu", size, source=f"a.py:{source} f" if source else None)
            pending.append((step + lives, row))
        for until, row in list(pending):
            if until == step:
                process.free(row)
                pending.remove((until, row))
    (device,) = find_leaks(open_trace(builder.write())).devices
    assert device.before_bytes + device.kept_bytes == live
    assert device.kept_bytes == sum(site.kept_bytes for site in device.sites)
    assert device.kept_bytes == sum(step.kept_bytes for step in device.steps)
    assert sum(step.born_bytes for step in device.steps) == sum(block[0] for block in blocks)
    assert all(step.left_bytes <= step.born_bytes for step in device.steps)
