"""The package itself: building, loading into this process and into others, the controls."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import simcuda

pytestmark = pytest.mark.cuda_sim


@pytest.fixture(autouse=True)
def _available() -> None:
    reason = simcuda.unavailable()
    if reason:
        pytest.skip(reason)


def run_plain(code: str) -> subprocess.CompletedProcess[str]:
    """Runs code in an interpreter that gets nothing from its environment."""
    path = f"import sys; sys.path.insert(0, {str(simcuda.TESTS_FOLDER)!r}); import simcuda\n"
    command = [sys.executable, "-c", path + code]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_load_into_a_running_process() -> None:
    done = run_plain(
        "simcuda.load(devices=2, memory_mb=512, context_mb=100)\n"
        "simcuda.load(devices=2, memory_mb=512, context_mb=100)\n"  # the same again is fine
        "import torch\n"
        "print(torch.cuda.device_count(), torch.cuda.mem_get_info(1))\n"
        "print(torch.zeros(4, device='cuda:1').sum().item())\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"2 ({412 << 20}, {512 << 20})", "0.0"]


def test_load_after_torch_is_refused() -> None:
    done = run_plain("import types; sys.modules['torch'] = types.ModuleType('t'); simcuda.load()")
    assert "must come before torch is imported" in done.stderr


def test_another_machine_is_refused_once_in_use() -> None:
    done = run_plain(
        "simcuda.load()\nsimcuda.counters()\n"
        "try:\n    simcuda.load(devices=2)\n"
        "except simcuda.SimcudaError as error:\n    print(error)\n"
    )
    assert "already uses another simulated machine" in done.stdout, done.stderr


def test_controls_without_a_machine_are_refused() -> None:
    assert "call simcuda.load() first" in run_plain("simcuda.counters()").stderr


def test_unknown_device_is_refused() -> None:
    done = run_plain("simcuda.load(); simcuda.set_capacity(0, device=3)")
    assert "has no device 3" in done.stderr


def test_python_command(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("import sys, torch; print(sys.argv[1], torch.cuda.mem_get_info()[1] >> 20)")
    argv, env = simcuda.python_command(program, "argument", memory_mb=700)
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["argument", "700"]


def test_allocation_time() -> None:
    done = run_plain(
        "import ctypes, time\n"
        "simcuda.load(allocation_us=20000)\n"
        "start = time.monotonic(); address = ctypes.c_void_p(); cuda = ctypes.CDLL(None)\n"
        "assert cuda.cudaMalloc(ctypes.byref(address), ctypes.c_size_t(4096)) == 0\n"
        "assert cuda.cudaFree(address) == 0\n"
        "assert cuda.cudaFree(address) == 1  # cudaErrorInvalidValue: freed twice\n"
        "print(time.monotonic() - start >= 0.04, simcuda.counters().allocated_bytes)\n"
    )
    assert done.stdout.split() == ["True", "0"], done.stderr


def test_builds_at_the_same_time_give_one_result(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(simcuda.build, [tmp_path, tmp_path]))
    assert folders[0] == folders[1]
    assert [path.name for path in tmp_path.iterdir() if path.name != ".gitignore"] == [
        folders[0].name
    ]
    built = {path.name for path in folders[0].iterdir()}
    assert {"libsimcuda.so", "libsimcuda-all.so", "libcuda.so.1", "libnvidia-ml.so.1"} <= built
