"""The ledger of hand-made programs, every line to the byte; and that every sum adds up."""

from __future__ import annotations

from pathlib import Path

import pytest

from memtrace.analyse.ledger import Instant, Ledger, make_ledger
from memtrace.analyse.ledger_lines import BESIDE, TOTAL
from memtrace.errors import MemtraceError
from memtrace.trace import Trace, open_trace
from trace_builder import TraceBuilder, serving_trace

MIB = 1 << 20
GIB = 1 << 30
KIB = 1 << 10


def check_sums(ledger: Ledger) -> None:
    """Every total is the one above it plus what stands between; a total that is not counted: no."""
    for device in ledger.devices:
        for stage in device.stages:
            for instant in (stage.peak, stage.end):
                total = 0
                for line in instant.lines:
                    if line.kind == BESIDE:
                        continue
                    if line.kind != TOTAL:
                        assert line.size_bytes is not None
                        total += line.size_bytes
                    elif line.size_bytes is not None:
                        assert line.size_bytes == total, line.name
                    else:
                        assert line.why


def sums(instant: Instant) -> dict[str, int | None]:
    """Lines that say something."""
    return {line.name: line.size_bytes for line in instant.lines if line.size_bytes != 0}


def gpu_trace(path: Path) -> Trace:
    """Loads, rests, serves; sampled from beside by NVML in the middle of each stage."""
    builder = TraceBuilder(path)
    p = builder.process()

    def sampled(process: int, used: int) -> None:
        for metric, value in (("process", process), ("used", used), ("total", 80 * GIB)):
            p.sample("cuda:0", "nvml", metric, value, reason="period")

    with p.stage("load"):
        p.segment("cuda:0", 40 * MIB, address=100 * MIB)
        p.alloc("cuda:0", 16 * MIB, category="weight", address=100 * MIB)
        p.alloc("cuda:0", 1000, category="buffer", address=116 * MIB)
        staging = p.alloc("cuda:0", 4 * MIB, category="temporary", address=120 * MIB)
        p.free(staging)
        sampled(340 * MIB, GIB)
    with p.stage("idle"):
        sampled(340 * MIB, GIB)
    with p.stage("inference"):
        p.segment("cuda:0", 64 * MIB, address=300 * MIB)
        p.segment("cuda:0", 20 * MIB, address=400 * MIB, pool="graph:0-1")
        p.alloc("cuda:0", 2 * MIB, category="activation", pool="graph:0-1", address=400 * MIB)
        kept = p.alloc("cuda:0", 6 * MIB, category="kv_cache", address=300 * MIB)
        with p.step(batch_size=2, input_shapes='{"input_ids": [2, 128]}'):
            small = p.alloc("cuda:0", 10 * MIB, category="activation", address=310 * MIB)
        p.free(small)
        held = p.alloc("cuda:0", 3 * MIB, category="activation", address=320 * MIB)
        p.free(held, hold=True)
        with p.step(batch_size=8, input_shapes='{"input_ids": [8, 128]}'):
            large = p.alloc("cuda:0", 30 * MIB - 100, category="activation", address=330 * MIB)
            sampled(430 * MIB, GIB + 90 * MIB)
        p.segment("cuda:0", 2 * MIB, address=500 * MIB)
        for block in (large, kept):
            p.free(block)
        p.release(held)
    return open_trace(builder.write())


def test_a_gpu_line_by_line(tmp_path: Path) -> None:
    ledger = make_ledger(gpu_trace(tmp_path / "x.memtrace"))
    check_sums(ledger)
    gpu = ledger.devices[0]
    assert [stage.stage.name for stage in gpu.stages] == ["load", "idle", "inference"]
    load, idle, inference = gpu.stages
    assert sums(load.peak) == {
        "weight": 16 * MIB, "buffer": KIB, "temporary": 4 * MIB, "allocated": 20 * MIB + KIB,
        "active": 20 * MIB + KIB, "split_remainders": 20 * MIB - KIB, "reserved": 40 * MIB,
        "context": 300 * MIB, "process": 340 * MIB,
        "others": GIB - 340 * MIB, "device_used": GIB, "device_free": 79 * GIB,
        "device_total": 80 * GIB, "rounding": 24,
    }  # fmt: skip
    assert sums(idle.end) == {
        "weight": 16 * MIB, "buffer": KIB, "allocated": 16 * MIB + KIB, "active": 16 * MIB + KIB,
        "split_remainders": 24 * MIB - KIB, "reserved": 40 * MIB, "context": 300 * MIB,
        "process": 340 * MIB, "others": GIB - 340 * MIB, "device_used": GIB,
        "device_free": 79 * GIB, "device_total": 80 * GIB, "rounding": 24,
    }  # fmt: skip
    active = 57 * MIB + KIB  # of it 3 that a stream still uses
    assert sums(inference.peak) == {
        "weight": 16 * MIB, "buffer": KIB, "kv_cache": 6 * MIB, "activation": 32 * MIB,
        "allocated": 54 * MIB + KIB, "awaiting_stream": 3 * MIB, "active": active,
        "split_remainders": 124 * MIB - active, "reserved": 124 * MIB,
        "context": 306 * MIB, "process": 430 * MIB,
        "others": GIB - 340 * MIB, "device_used": GIB + 90 * MIB,
        "device_free": 79 * GIB - 90 * MIB, "device_total": 80 * GIB, "rounding": 124,
        "graph_pools_reserved": 20 * MIB, "graph_pools_allocated": 2 * MIB,
    }  # fmt: skip
    assert sums(inference.end) == {
        "weight": 16 * MIB, "buffer": KIB, "activation": 2 * MIB,
        "allocated": 18 * MIB + KIB, "active": 18 * MIB + KIB,
        "split_remainders": 42 * MIB - KIB, "cached_segments": 66 * MIB, "reserved": 126 * MIB,
        "reserved_between": -2 * MIB, "context": 306 * MIB, "process": 430 * MIB,
        "others": GIB - 340 * MIB, "device_used": GIB + 90 * MIB,
        "device_free": 79 * GIB - 90 * MIB, "device_total": 80 * GIB, "rounding": 24,
        "graph_pools_reserved": 20 * MIB, "graph_pools_allocated": 2 * MIB,
    }  # fmt: skip
    assert inference.largest == {"process_bytes": 430 * MIB}
    assert inference.peak_step is not None
    assert inference.peak_step["batch_size"] == 8
    assert load.peak_step is None


def test_a_pool_that_a_graph_was_captured_into_is_the_graphs(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    p = builder.process()
    for number in (1, 2):
        pool = f"mempool:{number}"
        p.segment("cuda:0", 2 * MIB, address=number * 100 * MIB, pool=pool)
        p.alloc("cuda:0", number * KIB, address=number * 100 * MIB, pool=pool)
    p.rows["marks"].append({"kind": "capture_begin", "pool": "mempool:2", "seq": 0})
    (gpu,) = make_ledger(open_trace(builder.write())).devices
    end = gpu.stages[0].end
    assert end.size_bytes("graph_pools_allocated") == 2 * KIB
    assert end.size_bytes("mempools_allocated") == KIB
    assert end.size_bytes("graph_pools_reserved") == end.size_bytes("mempools_reserved") == 2 * MIB


def test_peak_over_idle_by_batch_size(tmp_path: Path) -> None:
    gpu = make_ledger(gpu_trace(tmp_path / "x.memtrace"), device="cuda:0").devices[0]
    assert (gpu.idle_bytes, gpu.idle_is_stage) == (16 * MIB + KIB, True)
    assert [(b.batch_size, b.steps, b.peak_bytes) for b in gpu.batches] == [
        (2, 1, 34 * MIB + KIB),
        (8, 1, 54 * MIB + KIB),
    ]


def test_without_an_idle_stage_it_is_what_stood_before_the_first_call(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    p = builder.process()
    p.alloc("cpu", 1000)
    with p.step(batch_size=None):
        p.alloc("cpu", 500)
    with p.step(batch_size=None):
        p.alloc("cpu", 500)
    (cpu,) = make_ledger(open_trace(builder.write())).devices
    assert (cpu.idle_bytes, cpu.idle_is_stage) == (1000, False)
    ((batch),) = cpu.batches
    assert (batch.batch_size, batch.steps, batch.peak_bytes) == (None, 2, 2000)


def test_an_idle_stage_that_goes_on_while_the_model_works(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    p = builder.process()
    with p.stage("idle"):
        p.alloc("cpu", 1000)
        with p.step(batch_size=1):
            p.alloc("cpu", 500)
    (cpu,) = make_ledger(open_trace(builder.write())).devices
    assert cpu.idle_bytes == 1000


def cpu_trace(path: Path) -> Trace:
    builder = TraceBuilder(path)
    p = builder.process()
    with p.stage("load"):
        p.alloc("cpu", 10 * MIB, category="weight")
        p.alloc("cpu", MIB, category="other", memory="pinned", block_bytes=2 * MIB)
        p.alloc(
            "cpu", 100 * MIB, action="external", memory="mapped", category="weight",
            resident_bytes=30 * MIB,
        )  # fmt: skip
        p.alloc("cpu", MIB, action="external", memory="shared", category="input")
        for target, source, metric, value in (
            ("host", "rss", "rss", 500 * MIB), ("host", "pss", "pss", 450 * MIB),
            ("host", "uss", "uss", 400 * MIB), ("container", "cgroup", "usage", 600 * MIB),
            ("container", "cgroup", "peak", 700 * MIB), ("container", "cgroup", "limit", GIB),
        ):  # fmt: skip
            p.sample(target, source, metric, value, reason="period")
    with p.stage("untouched"):
        p.alloc("cpu", GIB, category="activation")
        p.sample("host", "rss", "rss", 520 * MIB, reason="period")
    return open_trace(builder.write())


def test_a_cpu_line_by_line(tmp_path: Path) -> None:
    ledger = make_ledger(cpu_trace(tmp_path / "x.memtrace"))
    check_sums(ledger)
    (cpu,) = ledger.devices
    load, untouched = cpu.stages
    assert sums(load.end) == {
        "weight": 110 * MIB, "input": MIB, "other": 2 * MIB, "tensors": 113 * MIB,
        "not_resident": -70 * MIB, "python_and_other": 457 * MIB, "rss": 500 * MIB,
        "pinned": 2 * MIB, "external_mapped": 100 * MIB, "external_shared": MIB,
        "residency_unknown": MIB, "pss": 450 * MIB, "uss": 400 * MIB,
        "container_usage": 600 * MIB, "container_peak": 700 * MIB, "container_limit": GIB,
    }  # fmt: skip
    assert untouched.peak.size_bytes("python_and_other") == 520 * MIB - (GIB + 43 * MIB)
    assert untouched.largest == {"rss_bytes": 520 * MIB}


def test_at_a_sample_that_is_off_torch_held_something_else(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    p = builder.process()
    with p.stage("load"):
        p.alloc("cpu", MIB)
        p.sample("host", "rss", "rss", 100 * MIB)
        p.alloc("cpu", 3 * MIB, action="external", memory="shared", resident_bytes=3 * MIB)
        p.alloc("cpu", 5 * MIB)
    ledger = make_ledger(open_trace(builder.write()))
    check_sums(ledger)
    peak = ledger.devices[0].stages[0].peak
    assert peak.size_bytes("tensors") == 9 * MIB
    assert peak.size_bytes("tensors_between") == -8 * MIB
    assert peak.size_bytes("python_and_other") == 99 * MIB
    rss = next(line for line in peak.lines if line.name == "rss")
    assert rss.off_ns == -2 * p.tick_ns


def test_of_two_samples_the_one_counts_at_which_torch_held_the_same(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    p = builder.process()
    with p.stage("load"):
        p.sample("host", "rss", "rss", 100 * MIB)
        p.alloc("cpu", 5 * MIB)
        p.time_ns += 500_000_000
        p.sample("host", "rss", "rss", 105 * MIB)
    (cpu,) = make_ledger(open_trace(builder.write())).devices
    assert cpu.stages[0].peak.size_bytes("rss") == 105 * MIB
    assert cpu.stages[0].peak.size_bytes("tensors_between") is None


def test_a_sample_that_is_far_off_counts_only_where_none_is_near(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    p = builder.process()
    with p.stage("load"):
        p.sample("host", "rss", "rss", 100 * MIB)
        p.alloc("cpu", 5 * MIB)
        p.time_ns += 5_000_000_000
        p.sample("host", "rss", "rss", 300 * MIB)
    (cpu,) = make_ledger(open_trace(builder.write())).devices
    assert cpu.stages[0].peak.size_bytes("rss") == 100 * MIB


def test_memory_beside_the_allocators_counts_at_the_sample_too(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    p = builder.process()
    with p.stage("load"):
        p.alloc("cpu", 7 * MIB, action="external", memory="mapped", resident_bytes=7 * MIB)
        p.sample("host", "rss", "rss", 100 * MIB)
        p.alloc("cpu", 5 * MIB)
    ledger = make_ledger(open_trace(builder.write()))
    check_sums(ledger)
    peak = ledger.devices[0].stages[0].peak
    assert peak.size_bytes("tensors") == 12 * MIB
    assert peak.size_bytes("tensors_between") == -5 * MIB


def test_what_was_not_sampled_says_why(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    p = builder.process(cpu_on=False)
    p.segment("cuda:0", 2 * MIB)
    p.alloc("cuda:0", MIB)
    p.sample("host", "rss", "rss", 200 * MIB)
    ledger = make_ledger(open_trace(builder.write()))
    check_sums(ledger)
    gpu, cpu = ledger.devices
    why = {line.name: line.why for line in gpu.stages[0].end.lines if line.why}
    assert set(why) == {"process", "device_used"}
    assert "beside the program" in str(why["process"])
    why = {line.name: line.why for line in cpu.stages[0].end.lines if line.why}
    assert "--no-cpu" in str(why["tensors"])
    assert {"pss", "uss", "container_usage"} < set(why)
    assert cpu.stages[0].end.size_bytes("python_and_other") == 200 * MIB


def test_nvml_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    p = builder.process()
    p.segment("cuda:0", 2 * MIB)
    p.alloc("cuda:0", MIB)
    text = "nvidia-ml-py is not installed"
    p.sample("cuda:0", "nvml", "unavailable", None, text=text, reason="period")
    p.sample("cuda:0", "mem_get_info", "used", 700 * MIB)
    p.sample("cuda:0", "mem_get_info", "total", 80 * GIB)
    ledger = make_ledger(open_trace(builder.write()), device="cuda:0")
    check_sums(ledger)
    (gpu,) = ledger.devices
    end = gpu.stages[0].end
    (process,) = (line for line in end.lines if line.name == "process")
    assert (process.size_bytes, process.why) == (None, text)
    assert end.size_bytes("context_and_others") == 698 * MIB


def test_a_driver_that_hides_the_process(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    p = builder.process()
    p.alloc("cuda:0", MIB)
    p.sample("cuda:0", "nvml", "used", 700 * MIB, reason="period")
    p.sample("cuda:0", "nvml", "total", 80 * GIB, reason="period")
    ledger = make_ledger(open_trace(builder.write()), device="cuda:0")
    check_sums(ledger)
    (process,) = (line for line in ledger.devices[0].stages[0].end.lines if line.name == "process")
    assert "container" in str(process.why)


def test_a_program_without_stages_is_one_stage(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    p = builder.process()
    block = p.alloc("cpu", MIB)
    p.free(block)
    (cpu,) = make_ledger(open_trace(builder.write())).devices
    (stage,) = cpu.stages
    assert (stage.stage.kind, stage.peak.size_bytes("tensors")) == ("whole", MIB)
    assert stage.end.size_bytes("tensors") == 0


def test_a_stage_in_which_nothing_happens_holds_what_stood(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    p = builder.process()
    p.alloc("cpu", MIB)
    with p.stage("idle"):
        p.time_ns += 5
    p.alloc("cpu", MIB)
    (cpu,) = make_ledger(open_trace(builder.write())).devices
    (stage,) = cpu.stages
    assert stage.peak.size_bytes("tensors") == stage.end.size_bytes("tensors") == MIB
    assert stage.peak.time_ns == stage.stage.start_time_ns


def test_stages_of_one_name_are_one_and_the_smallest_are_left_out(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    p = builder.process()
    for number in range(50):
        with p.stage("step"):
            p.free(p.alloc("cpu", 1000 + (number == 30)))
    for number in range(5):
        with p.stage(f"request {number}"):
            p.free(p.alloc("cpu", 100 * number))
    with p.stage("load", kind="auto"), p.stage("load"):
        p.free(p.alloc("cpu", 10_000))
    (cpu,) = make_ledger(open_trace(builder.write()), top=3).devices
    assert [(s.stage.name, s.count) for s in cpu.stages] == [
        ("step", 50), ("request 4", 1), ("load", 1),
    ]  # fmt: skip
    assert cpu.stages[0].peak.size_bytes("tensors") == 1001
    assert cpu.stages[2].stage.kind == "user"
    assert cpu.left_out == 4


def test_a_stage_without_an_end_lasts_until_the_process_ends(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    p = builder.process()
    with p.stage("serve"):
        p.alloc("cpu", MIB)
    p.rows["stages"][0] |= {"end_seq": None, "end_time_ns": None}
    p.alloc("cpu", MIB)
    (cpu,) = make_ledger(open_trace(builder.write())).devices
    assert cpu.stages[0].end.size_bytes("tensors") == 2 * MIB
    assert cpu.stages[0].stage.end_time_ns == p.time_ns + p.tick_ns


def test_one_process_of_several(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    for pid, held in ((100, 5), (200, 50), (300, 8)):
        builder.process(pid=pid).alloc("cpu", held)
    trace = open_trace(builder.write())
    ledger = make_ledger(trace)
    assert ledger.process.pid == 200
    assert sorted(process.pid for process in ledger.others) == [100, 300]
    assert make_ledger(trace, process=300).process.pid == 300
    assert trace.stages_ledger(process=100).process.pid == 100
    with pytest.raises(MemtraceError, match="no process 7"):
        make_ledger(trace, process=7)
    with pytest.raises(MemtraceError, match="no memory of cuda:3"):
        make_ledger(trace, device="cuda:3")


def test_the_serving_trace(tmp_path: Path) -> None:
    ledger = make_ledger(open_trace(serving_trace(tmp_path / "x.memtrace")))
    check_sums(ledger)
    gpu, _ = ledger.devices
    assert [s.peak.size_bytes("allocated") for s in gpu.stages] == [96 * MIB, 123 * MIB + 5120]
