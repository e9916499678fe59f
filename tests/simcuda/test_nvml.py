"""The simulated NVML, through the real nvidia-ml-py: it agrees with the runtime to the byte."""

from __future__ import annotations

from textwrap import dedent

import pytest

from simcuda.conftest import RunCode

pytest.importorskip("pynvml")
pytestmark = pytest.mark.cuda_sim

PREAMBLE = """
import os
import pynvml
import simcuda
MIB = 1 << 20
pynvml.nvmlInit()
handle = pynvml.nvmlDeviceGetHandleByIndex(0)
def processes(handle=handle):
    found = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    return {p.pid: p.usedGpuMemory for p in found}
def agree():
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    second = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
    free, total = torch.cuda.mem_get_info()
    assert (memory.free, memory.total) == (free, total)
    assert (second.free, second.total, second.reserved) == (free, total, 0)
    assert memory.used == second.used == total - free == sum(processes().values())
    return memory.used
"""

CASES = {
    "nothing_is_used_before_cuda_is": """
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        assert (memory.total, memory.used, memory.free) == (1 << 30, 0, 1 << 30)
        assert processes() == {}
    """,
    "the_context_is_charged": """
        torch.cuda.init()
        torch.zeros(1, device="cuda")
        assert agree() == 302 * MIB
        assert processes() == {os.getpid(): 302 * MIB}
    """,
    "used_bytes_follow_the_allocator": """
        torch.cuda.set_device(0)
        outside = agree()
        x = torch.empty(100 * MIB, dtype=torch.uint8, device="cuda")
        assert agree() == outside + torch.cuda.memory_reserved() == outside + 100 * MIB
        del x
        assert agree() == outside + 100 * MIB
        torch.cuda.empty_cache()
        assert agree() == outside == 300 * MIB
    """,
    "pinned_memory_is_not_on_the_device": """
        torch.cuda.set_device(0)
        before = agree()
        x = torch.empty(50 * MIB, dtype=torch.uint8, pin_memory=True)
        assert agree() == before
    """,
    "another_process_shows": """
        torch.cuda.set_device(0)
        simcuda.set_foreign(123 * MIB)
        assert agree() == 423 * MIB
        assert sorted(processes().values()) == [123 * MIB, 300 * MIB]
    """,
    "a_shrunk_device_is_full": """
        torch.cuda.set_device(0)
        simcuda.set_capacity(200 * MIB)
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        assert (memory.total, memory.used, memory.free) == (200 * MIB, 200 * MIB, 0)
    """,
    "identity": """
        properties = torch.cuda.get_device_properties(0)
        assert pynvml.nvmlDeviceGetName(handle) == properties.name == "Simulated GPU 0"
        uuid = pynvml.nvmlDeviceGetUUID(handle)
        assert uuid == f"GPU-{properties.uuid}"
        assert pynvml.nvmlDeviceGetIndex(pynvml.nvmlDeviceGetHandleByUUID(uuid)) == 0
        bus_id = pynvml.nvmlDeviceGetPciInfo(handle).busId
        assert pynvml.nvmlDeviceGetIndex(pynvml.nvmlDeviceGetHandleByPciBusId(bus_id)) == 0
        assert pynvml.nvmlDeviceGetCudaComputeCapability(handle) == (8, 0)
        assert pynvml.nvmlSystemGetDriverVersion().count(".") == 2
        assert pynvml.nvmlSystemGetCudaDriverVersion() // 1000 >= 13
        assert pynvml.nvmlDeviceGetUtilizationRates(handle).gpu == 0
    """,
    "errors": """
        for call, error in (
            (lambda: pynvml.nvmlDeviceGetHandleByIndex(1), pynvml.NVMLError_InvalidArgument),
            (lambda: pynvml.nvmlDeviceGetHandleByUUID("GPU-0"), pynvml.NVMLError_NotFound),
            (lambda: pynvml.nvmlDeviceGetHandleByPciBusId("0:9:0.0"), pynvml.NVMLError_NotFound),
        ):
            try:
                call()
            except error:
                continue
            raise AssertionError(error)
        pynvml.nvmlShutdown()
        try:
            pynvml.nvmlDeviceGetCount()
        except pynvml.NVMLError_Uninitialized:
            pass
        else:
            raise AssertionError("NVML was shut down")
    """,
}


@pytest.mark.parametrize("name", CASES)
def test_nvml(run_code: RunCode, name: str) -> None:
    run_code(PREAMBLE + dedent(CASES[name]))


def test_two_devices(run_code: RunCode) -> None:
    code = """
        assert pynvml.nvmlDeviceGetCount() == 2
        second = pynvml.nvmlDeviceGetHandleByIndex(1)
        torch.zeros(1, device="cuda:1")
        assert pynvml.nvmlDeviceGetMemoryInfo(second).used == 52 * MIB
        assert processes(second) == {os.getpid(): 52 * MIB}
        assert pynvml.nvmlDeviceGetUUID(handle) != pynvml.nvmlDeviceGetUUID(second)
    """
    run_code(PREAMBLE + dedent(code), devices=2, context_mb=50)
