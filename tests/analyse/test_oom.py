"""Failed allocations: who asked, what was in the way, what would have made it fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from memtrace.analyse.failures import list_ooms
from memtrace.analyse.oom import PostMortem, fragmentation_at_oom, post_mortem
from memtrace.analyse.request import Fit
from memtrace.errors import MemtraceError
from memtrace.trace import Trace, open_trace
from trace_builder import ProcessBuilder, TraceBuilder

MIB = 2**20
BASE = 0x7F00_0000_0000
DEVICES = json.dumps([{"device": "cuda:0", "name": "Small", "total_bytes": 200 * MIB}])


@pytest.fixture
def builder(tmp_path: Path) -> TraceBuilder:
    return TraceBuilder(tmp_path / "x.memtrace")


def segment(process: ProcessBuilder, size_mib: int, at_mib: int, **columns: Any) -> dict[str, Any]:
    facts = {"pool": "default", "small": False, "expandable": False, "stream": 0, **columns}
    return process.segment("cuda:0", size_mib * MIB, **facts, address=BASE + at_mib * MIB)


def block(process: ProcessBuilder, size_mib: float, at_mib: float, **columns: Any) -> Any:
    address = BASE + int(at_mib * MIB)
    return process.alloc("cuda:0", int(size_mib * MIB), address=address, **columns)


def examined(trace: Trace, **how: Any) -> PostMortem:
    found = post_mortem(trace, **how)
    assert found is not None
    return found


def fits(found: PostMortem) -> dict[str, Fit]:
    return {fit.name or fit.what: fit for fit in found.fits}


def full_device(builder: TraceBuilder, **row: Any) -> ProcessBuilder:
    """180 of 200 MiB reserved in pieces, 10 free, 10 of somebody else's."""
    process = builder.process(devices=DEVICES, **row)
    for place in range(8):
        segment(process, 20, 40 * place)
        block(process, 2, 40 * place + 9, category="kv_cache" if place < 4 else "activation",
              source="cache.py:1 f" if place < 4 else "net.py:9 f")  # fmt: skip
    segment(process, 18, 600)
    segment(process, 2, 700, small=True)
    block(process, 18, 600, category="weight")
    block(process, 0.5, 700, category="other")
    return process


def test_who_asked_for_what(builder: TraceBuilder) -> None:
    process = full_device(builder)
    process.stack(5, ("forward", "/srv/app/model.py", 88), ("main", "/srv/app/train.py", 3))
    asked = {
        "operator": "aten::mm", "top_operator": "aten::linear", "module": "h.3.mlp",
        "module_class": "MLP", "source": "model.py:88 forward", "forward_call_id": None,
    }  # fmt: skip
    process.oom("cuda:0", 50 * MIB, 10 * MIB, asked, stack_id=5)
    found = examined(open_trace(builder.write()))
    oom = found.oom
    assert (oom.asked_bytes, oom.device_free_bytes) == (50 * MIB, 10 * MIB)
    assert (oom.operator, oom.top_operator) == ("aten::mm", "aten::linear")
    assert (oom.module, oom.module_class, oom.source) == ("h.3.mlp", "MLP", "model.py:88 forward")
    assert [frame.line for frame in oom.stack] == [88, 3]
    assert not oom.went_on
    assert (found.number, found.ooms) == (1, 1)
    assert found.held.total_bytes == found.categories.total_bytes == int(34.5 * MIB)


def test_of_nobody(builder: TraceBuilder) -> None:
    full_device(builder).oom("cuda:0", 50 * MIB, 10 * MIB)
    (nothing,) = list_ooms(open_trace(builder.write()))
    assert (nothing.operator, nothing.module, nothing.source, nothing.stack) == (
        None, None, None, (),
    )  # fmt: skip


def test_memory_of_backward_has_the_stack_of_the_forward(builder: TraceBuilder) -> None:
    process = full_device(builder)
    process.stack(5, ("forward", "/srv/app/model.py", 88))
    process.operator(3, "aten::relu", stack_id=5, module="h.1")
    asked = {"operator": "aten::mul", "forward_operator": "aten::relu", "forward_call_id": 3}
    process.oom("cuda:0", 50 * MIB, 10 * MIB, asked)
    oom = examined(open_trace(builder.write())).oom
    assert (oom.operator, oom.forward_operator) == ("aten::mul", "aten::relu")
    assert [frame.line for frame in oom.stack] == [88]


def test_free_memory_in_pieces(builder: TraceBuilder) -> None:
    full_device(builder).oom("cuda:0", 50 * MIB, 10 * MIB)
    found = examined(open_trace(builder.write()))
    assert found.needed_bytes == 50 * MIB
    assert found.short_bytes == 40 * MIB
    assert found.total_bytes == 200 * MIB
    assert found.outside_bytes == 200 * MIB - 10 * MIB - 180 * MIB
    assert found.unusable == {"pieces": 8 * 18 * MIB, "size_class": 3 * MIB // 2}
    assert found.unusable_bytes == 180 * MIB - int(34.5 * MIB)
    assert found.largest_usable_bytes == 9 * MIB
    what = fits(found)
    assert (what["device_free"].size_bytes, what["device_free"].fits) == (40 * MIB, True)
    assert (what["outside"].size_bytes, what["outside"].fits) == (10 * MIB, False)
    # Each category of the two lies alone in four segments: 80 MiB go back without it.
    assert (what["kv_cache"].size_bytes, what["kv_cache"].fits) == (8 * MIB, True)
    assert what["activation"].fits
    assert (what["weight"].size_bytes, what["weight"].fits) == (18 * MIB, False)
    assert not what["other"].fits
    # A block in the middle of each page of 20 MiB: nothing would be gained.
    assert (what["expandable"].size_bytes, what["expandable"].fits) == (0, False)
    assert found.fragmentation is not None
    assert found.fragmentation.free_bytes == found.unusable_bytes


def test_whole_free_pages_make_it_fit_with_expandable_segments(builder: TraceBuilder) -> None:
    process = builder.process(devices=DEVICES)
    segment(process, 100, 0)
    block(process, 2, 50)
    segment(process, 90, 200)
    block(process, 90, 200)
    process.oom("cuda:0", 70 * MIB, 4 * MIB)
    process.oom("cuda:0", 86 * MIB, 4 * MIB)
    process.oom("cuda:0", 93 * MIB, 4 * MIB)
    trace = open_trace(builder.write())
    # 8 MiB are left of the page that the small block ends in: with these, 86 MiB may fit.
    for number, fit in ((1, True), (2, None), (3, False)):
        expandable = fits(examined(trace, number=number))["expandable"]
        assert (expandable.size_bytes, expandable.fits) == (80 * MIB, fit), number


def test_a_hole_that_merges_is_used_again(builder: TraceBuilder) -> None:
    process = builder.process(devices=DEVICES)
    segment(process, 40, 0)
    block(process, 10, 0, category="weight")
    block(process, 2, 20, category="activation")
    process.oom("cuda:0", 25 * MIB, 0)
    found = examined(open_trace(builder.write()))
    assert found.largest_usable_bytes == 18 * MIB
    assert fits(found)["activation"].fits
    assert not fits(found)["weight"].fits


@pytest.mark.parametrize(
    ("asked_bytes", "needed_bytes"),
    [
        (512, 2 * MIB), (MIB, 2 * MIB), (MIB + 512, 20 * MIB), (10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB), (21 * MIB + 512, 22 * MIB),
    ],
)  # fmt: skip
def test_what_the_device_had_to_give(
    builder: TraceBuilder, asked_bytes: int, needed_bytes: int
) -> None:
    process = builder.process(devices=DEVICES)
    process.alloc("cuda:0", 512)
    process.oom("cuda:0", asked_bytes, MIB)
    found = examined(open_trace(builder.write()))
    assert (found.needed_bytes, found.short_bytes) == (needed_bytes, needed_bytes - MIB)


def test_other_pools_streams_and_classes_are_of_no_use(builder: TraceBuilder) -> None:
    process = builder.process(devices=DEVICES)
    segment(process, 20, 0)
    block(process, 19, 0)
    segment(process, 20, 40, stream=7)
    block(process, 12, 40)
    segment(process, 20, 80, pool="mempool:0:1")
    segment(process, 2, 120, small=True)
    block(process, 1, 120)
    process.oom("cuda:0", 15 * MIB, 0, stream=0, pool="default")
    process.oom("cuda:0", 15 * MIB, 0, stream=7, pool="default")
    process.oom("cuda:0", 21 * MIB, 0, stream=0, pool="mempool:0:1")
    trace = open_trace(builder.write())
    assert examined(trace, number=1).unusable == {
        "pieces": MIB, "size_class": MIB, "stream": 8 * MIB, "pool": 20 * MIB,
    }  # fmt: skip
    assert examined(trace, number=2).largest_usable_bytes == 8 * MIB
    assert examined(trace, number=2).unusable["stream"] == MIB
    of_pool = examined(trace, number=3)
    assert (of_pool.unusable["pieces"], of_pool.unusable["pool"]) == (20 * MIB, 10 * MIB)


def test_waiting_blocks(builder: TraceBuilder) -> None:
    process = builder.process(devices=DEVICES)
    segment(process, 60, 0)
    process.free(block(process, 60, 0), hold=True)
    process.oom("cuda:0", 50 * MIB, 0)
    waiting = fits(examined(open_trace(builder.write())))["waiting"]
    assert (waiting.size_bytes, waiting.fits) == (60 * MIB, True)


def test_just_enough(builder: TraceBuilder) -> None:
    process = builder.process(devices=DEVICES)
    segment(process, 20, 0)
    block(process, 20, 0, category="kv_cache")
    for size_mib in (30, 32):
        process.oom("cuda:0", size_mib * MIB, 10 * MIB)
    trace = open_trace(builder.write())
    assert fits(examined(trace, number=1))["kv_cache"].fits is True
    assert fits(examined(trace, number=2))["kv_cache"].fits is False


def test_what_the_step_had_allocated(builder: TraceBuilder) -> None:
    process = builder.process(devices=DEVICES)
    segment(process, 60, 0)
    block(process, 30, 0)
    process.short_step()
    block(process, 10, 30)
    process.oom("cuda:0", 30 * MIB, 0)
    process.oom("cuda:0", 31 * MIB, 0)
    process.short_step()
    trace = open_trace(builder.write())
    step = fits(examined(trace, number=1))["step"]
    assert (step.size_bytes, step.fits) == (10 * MIB, True)
    assert not fits(examined(trace, number=2))["step"].fits


@pytest.mark.parametrize("how", ["mark", "setting"])
def test_a_limit_of_the_process(builder: TraceBuilder, how: str) -> None:
    settings = json.dumps({"conf": "per_process_memory_fraction:0.5" if how == "setting" else ""})
    process = builder.process(devices=DEVICES, allocator_settings=settings)
    segment(process, 80, 0)
    block(process, 80, 0)
    if how == "mark":
        process.rows["marks"].append(
            {"seq": process.seq, "time_ns": process.time_ns, "device": "cuda:0",
             "kind": "memory_fraction", "text": json.dumps({"fraction": 0.5, "device": 0})}
        )  # fmt: skip
    process.oom("cuda:0", 30 * MIB, 110 * MIB)
    found = examined(open_trace(builder.write()))
    assert (found.limit_bytes, found.short_bytes) == (100 * MIB, 10 * MIB)
    what = fits(found)
    assert "device_free" not in what
    assert (what["limit"].size_bytes, what["limit"].fits) == (10 * MIB, True)
    assert not what["outside"].fits


def test_an_expandable_request_needs_pages(builder: TraceBuilder) -> None:
    settings = json.dumps({"expandable_segments": True})
    process = builder.process(devices=DEVICES, allocator_settings=settings)
    process.alloc("cuda:0", 512)
    process.oom("cuda:0", 21 * MIB, 10 * MIB)
    process.oom("cuda:0", MIB, MIB)
    trace = open_trace(builder.write())
    large, small = examined(trace, number=1), examined(trace, number=2)
    assert (large.needed_bytes, small.needed_bytes) == (40 * MIB, 2 * MIB)
    assert "expandable" not in fits(large)


def test_other_recorded_processes_of_the_device(builder: TraceBuilder) -> None:
    uuid = [{"device": "cuda:0", "uuid": "GPU-1", "total_bytes": 200 * MIB}]
    first = builder.process(1, devices=json.dumps(uuid))
    segment(first, 20, 0)
    segment(first, 30, 40)
    late = builder.process(2, devices=json.dumps(uuid), clock_origin_ns=10**15)
    segment(late, 20, 0)
    elsewhere = builder.process(
        3, devices=json.dumps([{"device": "cuda:0", "uuid": "GPU-2", "total_bytes": 1}])
    )
    segment(elsewhere, 20, 0)
    ended = builder.process(4, devices=json.dumps(uuid), clock_origin_ns=10**12 - 10**6)
    segment(ended, 20, 0)
    failing = builder.process(5, devices=json.dumps(uuid))
    segment(failing, 2, 0)
    failing.oom("cuda:0", 150 * MIB, 100 * MIB)
    first.time_ns = 10**6  # it runs on
    found = examined(open_trace(builder.write()))
    assert [(p.pid, total) for p, total in found.neighbours] == [(1, 50 * MIB)]


def test_the_cpu(builder: TraceBuilder) -> None:
    process = builder.process()
    process.alloc("cpu", 300, source="a.py:1 f", category="weight")
    process.oom("cpu", 10**12, 10**10)
    process.oom("cpu", 10**6, 10**10)
    process.oom("cpu", 10**6, 0)
    trace = open_trace(builder.write())
    first = examined(trace, number=1)
    assert (first.short_bytes, first.fits, first.fragmentation) == (10**12 - 10**10, (), None)
    assert first.held.total_bytes == 300
    assert examined(trace, number=2).short_bytes == 0
    assert examined(trace).oom.device_free_bytes is None
    with pytest.raises(MemtraceError, match="has no segments"):
        fragmentation_at_oom(trace, 1)


def test_caught_ones_are_counted_and_listed(builder: TraceBuilder) -> None:
    process = full_device(builder)
    for _ in range(3):
        process.oom("cuda:0", 50 * MIB, 10 * MIB)
    process.alloc("cuda:0", 512)
    process.oom("cuda:0", 60 * MIB, 10 * MIB)
    process.oom("cpu", 60 * MIB, 10 * MIB)
    trace = open_trace(builder.write())
    assert [oom.went_on for oom in list_ooms(trace)] == [True, True, True, False, False]
    assert [oom.device for oom in list_ooms(trace, device="cpu")] == ["cpu"]
    assert examined(trace, device="cuda:0").number == 4
    assert fragmentation_at_oom(trace, 4).why == "oom"
    for number in (0, 6):
        with pytest.raises(MemtraceError, match="5 allocations failed"):
            post_mortem(trace, number=number)


def test_none(builder: TraceBuilder) -> None:
    builder.process().alloc("cuda:0", 512)
    trace = open_trace(builder.write())
    assert post_mortem(trace) is None
    assert list_ooms(trace) == []
    with pytest.raises(MemtraceError, match="0 allocations failed"):
        fragmentation_at_oom(trace, 1)
