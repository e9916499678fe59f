"""Verdicts on GPUs: what fits, with what headroom, context and price."""

from __future__ import annotations

from pathlib import Path

import pytest

from fit.made_up import GIB, MIB, server, worker
from memtrace.errors import MemtraceError
from memtrace.fit.catalogue import Gpu, Price, choose, read_catalogue
from memtrace.fit.judge import NO, UNCERTAIN, YES, Fit, judge
from memtrace.trace import open_trace
from trace_builder import TraceBuilder

CONTEXT = 400 * MIB


def gpu(name: str, cuda_bytes: int, price: float | None = None) -> Gpu:
    prices = () if price is None else (Price(price, "USD", "2026-01-01", "a test"),)
    return Gpu(name, name, None, cuda_bytes, None, (8, 0), "2026-01-01", "a test", prices)


@pytest.fixture
def found(tmp_path: Path) -> Fit:
    sizes = [gpu("small", 8 * GIB, 1), gpu("middle", 17 * GIB, 2), gpu("large", 40 * GIB, 5)]
    return judge(server(tmp_path / "x.memtrace"), sizes)


def test_what_is_needed_is_the_least_with_which_it_completes(found: Fit) -> None:
    # The program had 18 GiB reserved; what it caches it can give back.
    assert (found.least_bytes, found.most_bytes) == (16 * GIB, 16 * GIB)
    assert found.band_permille == 0
    assert (found.context.low_bytes, found.context.high_bytes) == (CONTEXT, CONTEXT)
    assert found.context.sampled


def test_verdicts(found: Fit) -> None:
    small, middle, large = found.verdicts
    assert [v.fits for v in found.verdicts] == [NO, YES, YES]
    assert large.usable_bytes == 40 * GIB - CONTEXT
    assert large.headroom_bytes == 24 * GIB - CONTEXT
    assert small.headroom_bytes < 0
    assert middle.stages == {"load": YES, "idle": YES, "inference": YES}
    assert small.stages == {"load": NO, "idle": NO, "inference": NO}


def test_the_load_is_the_peak(found: Fit) -> None:
    stages = {stage.name: (stage.peak_bytes, stage.is_peak) for stage in found.stages}
    assert stages["load"] == (16 * GIB, True)
    assert stages["idle"] == (8 * GIB, False)
    assert 9 * GIB < stages["inference"][0] < 10 * GIB
    assert [stage.name for stage in found.stages] == ["load", "idle", "inference"]
    assert {row.key: row.total_bytes for row in found.categories.rows} == {
        "other": 8 * GIB, "weight": 8 * GIB,
    }  # fmt: skip


def test_prices_are_relative_to_the_cheapest_that_fits(found: Fit) -> None:
    assert found.cheapest is not None
    assert found.cheapest.name == "middle"
    assert [v.relative_price for v in found.verdicts] == [(0.5, 0.5), (1, 1), (2.5, 2.5)]


def test_the_context_that_there_is_room_for(found: Fit) -> None:
    cache = found.kv_cache
    assert cache is not None
    assert cache.token_bytes == 4 * 4 * 64 * 2  # tensors x heads x width x bytes
    assert (cache.sequences, cache.tokens) == (2, 128)
    large = found.verdicts[2]
    assert large.context_tokens == (large.usable_bytes - 9 * GIB) // (2 * cache.token_bytes)
    assert found.verdicts[0].context_tokens == 0


def test_bfloat16_on_an_old_gpu(tmp_path: Path) -> None:
    t4, h100 = choose(read_catalogue(), "t4,h100")
    found = judge(server(tmp_path / "x.memtrace"), [t4, h100])
    notes = [verdict.notes for verdict in found.verdicts]
    assert notes == [("no bfloat16 below compute capability 8.0, this is 7.5",), ()]


def test_tensors_of_the_cpu_are_an_estimate(tmp_path: Path) -> None:
    found = judge(worker(tmp_path / "x.memtrace", shared=50 * MIB), [gpu("g", GIB)])
    # Weights, the largest activation, weights in files, and the workspace of aten::mm (8.1 MiB, for
    # which the allocator takes a segment of 20 MiB).
    assert found.allocated_bytes == (100 + 90) * MIB + 4096 * 1024 * 2 + 16 * 1024 * 8
    assert found.most_bytes == (100 + 90 + 50 + 20) * MIB
    assert found.mapped_bytes == 50 * MIB
    assert found.band_permille > 0
    assert not found.context.sampled
    assert any("an estimate" in line for line in found.assumptions)
    assert any("mapped files" in line for line in found.assumptions)
    # 260 MiB, a little more, and 300 to 600 MiB beside them.
    sizes = [gpu("a", 550 * MIB), gpu("b", 700 * MIB), gpu("c", 900 * MIB)]
    verdicts = judge(found.trace, sizes).verdicts
    assert [verdict.fits for verdict in verdicts] == [NO, UNCERTAIN, YES]


def test_a_recording_that_ran_out_of_memory_proves_no_fit(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    p = builder.process()
    p.segment("cuda:0", 2 * GIB)
    p.alloc("cuda:0", GIB)
    p.oom("cuda:0", 4 * GIB, GIB)
    found = judge(open_trace(builder.write()), [gpu("g", 80 * GIB), gpu("h", 5 * GIB)])
    assert (found.least_bytes, found.most_bytes) == (5 * GIB, 5 * GIB)
    assert [verdict.fits for verdict in found.verdicts] == [UNCERTAIN, NO]
    assert any("a request failed" in line for line in found.assumptions)


def test_the_largest_batch_has_what_failed_too(tmp_path: Path) -> None:
    """It is none where the recorded ones do not fit."""
    builder = TraceBuilder(tmp_path / "x.memtrace")
    p = builder.process()
    p.segment("cuda:0", 2 * GIB)
    for batch in (1, 2):
        with p.step(batch_size=batch, input_shapes=f'{{"ids": [{batch}, 16]}}', kind="inference"):
            p.free(p.alloc("cuda:0", batch * 100 * MIB, category="activation", module="lm",
                           operator="aten::relu"))  # fmt: skip
    p.oom("cuda:0", 4 * GIB, 78 * GIB)
    found = judge(open_trace(builder.write()), [gpu("g", 80 * GIB), gpu("h", 3 * GIB)])
    assert [verdict.fits for verdict in found.verdicts] == [UNCERTAIN, NO]
    largest, none = (verdict.largest_batch for verdict in found.verdicts)
    assert largest is not None
    assert largest > 2
    assert none == 0


def test_one_device_and_process_are_judged(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    for pid in (1, 2):
        p = builder.process(pid=pid)
        for device in ("cuda:0", "cuda:1"):
            p.segment(device, pid * GIB)
            p.alloc(device, pid * GIB)
    trace = open_trace(builder.write())
    found = judge(trace, [gpu("g", 4 * GIB)])
    assert found.process.pid == 2
    assert found.assumptions[-2:] == (
        "a GPU of its own for process 2, one of 2 recorded",
        "judged is cuda:0, of cuda:0, cuda:1 (--device)",
    )
    assert judge(trace, [], device="cuda:1", process=1).most_bytes == GIB
    with pytest.raises(MemtraceError, match="no memory of cuda:7"):
        judge(trace, [], device="cuda:7")
