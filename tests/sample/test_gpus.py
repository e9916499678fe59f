"""What the driver says of GPUs, against the simulated CUDA machine, to the byte."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import pytest

import memtrace
import simcuda
from memtrace.analyse.ledger import make_ledger
from memtrace.sample.nvml import Gpus, NvmlError
from program_runs import wait_for_finaliser

MIB = 1 << 20
CONTEXT_BYTES = 300 * MIB

PROGRAM = """
    import time, torch, memtrace
    torch.cuda.init()
    with memtrace.stage("load"):
        weights = [torch.empty(n << 20, dtype=torch.uint8, device="cuda") for n in (20, 40, 100)]
        time.sleep(1.5)
    with memtrace.stage("idle"):
        del weights[2]
        time.sleep(0.4)
    torch.cuda.empty_cache()
    with memtrace.stage("work"):
        pinned = torch.empty(5 << 20, dtype=torch.uint8, pin_memory=True)
        graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
        with torch.cuda.graph(graph, pool=pool):
            kept = torch.empty(30 << 20, dtype=torch.uint8, device="cuda")
        time.sleep(0.4)
"""


def record(tmp_path: Path, *runs: str) -> list[memtrace.Trace]:
    """Runs programs at the same time on one simulated machine; their traces."""
    reason = simcuda.unavailable()
    if reason:
        pytest.skip(reason)
    shared = tmp_path / "machine"
    shared.mkdir()
    running, traces = [], []
    for number, text in enumerate(runs):
        path = tmp_path / f"program{number}.py"
        path.write_text(textwrap.dedent(text))
        traces.append(tmp_path / f"{number}.memtrace")
        argv, env = simcuda.python_command(
            path, interpreter=(sys.executable, "-m", "memtrace", "run", "--quiet",
                               "-o", str(traces[-1])),
        )  # fmt: skip
        running.append(subprocess.Popen(argv, env={**env, "SIMCUDA_SHARED": str(shared)}))
    for process, trace in zip(running, traces, strict=True):
        assert process.wait(timeout=120) == 0
        wait_for_finaliser(trace)
    return [memtrace.open(trace) for trace in traces]


@pytest.mark.cuda_sim
def test_context_is_what_is_neither_reserved_nor_another_process(tmp_path: Path) -> None:
    (trace,) = record(tmp_path, PROGRAM)
    gpu = make_ledger(trace, device="cuda:0").devices[0]
    assert [stage.stage.name for stage in gpu.stages] == ["load", "idle", "work"]
    for stage in gpu.stages:
        for instant in (stage.peak, stage.end):
            held = {line.name: line.size_bytes for line in instant.lines}
            between = held.get("reserved_between") or 0
            assert held["context"] == CONTEXT_BYTES
            assert held["process"] == held["reserved"] + between + CONTEXT_BYTES
            assert held["others"] == 0
            assert held["device_total"] == 1 << 30
    load, idle, work = (stage.end for stage in gpu.stages)
    assert load.size_bytes("process") == (20 + 40 + 100) * MIB + CONTEXT_BYTES
    assert idle.size_bytes("cached_segments") == 100 * MIB
    assert work.size_bytes("process") == (20 + 40 + 30 + 2) * MIB + CONTEXT_BYTES
    assert work.size_bytes("graph_pools_allocated") == 30 * MIB
    assert work.size_bytes("graph_pools_reserved") == 30 * MIB
    cpu = make_ledger(trace, device="cpu").devices[0]
    assert cpu.stages[-1].end.size_bytes("pinned") == 8 * MIB
    timeline = trace.timeline.to_pylist()
    values = [r["last_bytes"] for r in timeline if r["metric"] == "process"]
    assert load.size_bytes("process") in values


@pytest.mark.cuda_sim
def test_two_programs_on_one_gpu(tmp_path: Path) -> None:
    holds = """
        import time, torch, memtrace
        with memtrace.stage("hold"):
            held = torch.empty({n} << 20, dtype=torch.uint8, device="cuda")
            time.sleep(3)
    """
    traces = record(tmp_path, holds.replace("{n}", "50"), holds.replace("{n}", "80"))
    for trace, own, other in zip(traces, (50, 80), (80, 50), strict=True):
        largest = max(
            row["value_bytes"]
            for row in trace.samples.to_pylist()
            if (row["source"], row["metric"]) == ("nvml", "process")
        )
        assert largest == own * MIB + CONTEXT_BYTES
        together = max(
            row["value_bytes"]
            for row in trace.samples.to_pylist()
            if (row["source"], row["metric"]) == ("nvml", "used")
        )
        assert together == (own + other) * MIB + 2 * CONTEXT_BYTES


def test_without_nvidia_ml_py(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(NvmlError, match="nvidia-ml-py is not installed"):
        Gpus()


class FakeNvml(ModuleType):
    """pynvml, failing where it is told to."""

    NVMLError = type("NVMLError", (Exception,), {})
    fails = ""

    def __getattr__(self, name: str) -> object:
        def call(*args: object) -> object:
            if name == self.fails:
                raise self.NVMLError("Driver Not Loaded")
            return {"nvmlDeviceGetCount": 1, "nvmlDeviceGetUUID": b"GPU-1"}.get(name, 0)

        return call


@pytest.mark.parametrize("fails", ["nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex"])
def test_a_driver_that_fails(monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    fake = FakeNvml("pynvml")
    fake.fails = fails
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    with pytest.raises(NvmlError, match="NVML failed: Driver Not Loaded"):
        Gpus()


def test_a_driver_that_fails_later(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNvml("pynvml")
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    gpus = Gpus()
    assert gpus.uuids == ["GPU-1"]
    fake.fails = "nvmlDeviceGetComputeRunningProcesses"
    with pytest.raises(NvmlError):
        gpus.process_bytes("GPU-1")
    fake.fails = "nvmlDeviceGetMemoryInfo"
    with pytest.raises(NvmlError):
        gpus.used_and_total_bytes("GPU-1")
