"""CUDA memory that cannot be seen: one line says why, the summary says it again."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import simcuda
from program_runs import Shown, main_process, memtrace, plain_environment, python

pytestmark = pytest.mark.cuda_sim

PROGRAM = "import torch\nx = torch.ones(1000, device='cuda')\nprint((x + 1).shape)\n"
PLUGGABLE_SOURCE = """
#include <stddef.h>
extern int cudaMalloc(void**, size_t);
extern int cudaFree(void*);
void* take(ptrdiff_t size, int device, void* stream) {
  void* made = 0;
  cudaMalloc(&made, size);
  return made;
}
void give(void* memory, ptrdiff_t size, int device, void* stream) { cudaFree(memory); }
"""


@pytest.fixture(autouse=True, scope="module")
def _available() -> None:
    reason = simcuda.unavailable()
    if reason:
        pytest.skip(reason)


def environment(**variables: str) -> dict[str, str]:
    simulated = simcuda.environment(simcuda.Machine(memory_mb=1024))
    kept = {name: simulated[name] for name in simulated if name.startswith(("SIMCUDA", "LD_"))}
    return {**plain_environment(), **kept, **variables}


def run(folder: Path, text: str, **variables: str) -> Shown:
    (folder / "program.py").write_text(text)
    env = environment(**variables)
    return memtrace("run", "-o", "t.memtrace", "program.py", cwd=folder, env=env)


def said(folder: Path, text: str, **variables: str) -> str:
    """The line; the program's output, and what is not CUDA's, are as ever."""
    shown = run(folder, text, **variables)
    assert (shown.status, shown.out) == (0, b"torch.Size([1000])\n"), shown.err
    line, *at_end = shown.err.decode().splitlines()
    assert line.startswith("memtrace: CUDA memory is not recorded: ")
    reason = line.removeprefix("memtrace: ")
    assert f"  {reason}" in at_end
    assert main_process(folder / "t.memtrace")["hook_error"] == reason
    summary = memtrace("summary", "t.memtrace", cwd=folder)
    assert summary.out.decode().count(reason) == 1
    peak = memtrace("peak", "t.memtrace", "--device", "cuda:0", cwd=folder)
    assert peak.status == 1
    assert peak.err.decode() == (
        f"memtrace: no memory of cuda:0 in this trace; it has cpu ({reason})\n"
    )
    return reason


def test_cuda_malloc_async(tmp_path: Path) -> None:
    reason = said(tmp_path, PROGRAM, PYTORCH_ALLOC_CONF="backend:cudaMallocAsync")
    assert "leave backend:cudaMallocAsync out of PYTORCH_ALLOC_CONF" in reason


def test_a_pluggable_allocator(tmp_path: Path) -> None:
    (tmp_path / "allocator.c").write_text(PLUGGABLE_SOURCE)
    library = tmp_path / "allocator.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "allocator.c"], check=True)
    change = (
        "import torch\n"
        f"mine = torch.cuda.memory.CUDAPluggableAllocator({str(library)!r}, 'take', 'give')\n"
        "torch.cuda.memory.change_current_allocator(mine)\n"
    )
    assert "pluggable allocator" in said(tmp_path, change + PROGRAM)


def test_caching_turned_off(tmp_path: Path) -> None:
    reason = said(tmp_path, PROGRAM, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
    assert "to record it, unset PYTORCH_NO_CUDA_MEMORY_CACHING" in reason


def test_caching_not_turned_off(tmp_path: Path) -> None:
    shown = run(tmp_path, PROGRAM, PYTORCH_NO_CUDA_MEMORY_CACHING="0")
    assert "cuda:0: peak 8.00 KiB" in shown.err.decode()


def test_cuda_that_does_not_come_up(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    env = environment(SIMCUDA_DEVICES="0")
    plain = python("program.py", cwd=tmp_path, env=env)
    shown = run(tmp_path, PROGRAM, SIMCUDA_DEVICES="0")
    assert (shown.status, shown.out) == (1, b"") == (plain.status, plain.out)
    *traceback, at_end = shown.err.decode().splitlines()
    assert traceback == plain.err.decode().splitlines()
    assert "the program imported torch but allocated nothing" in at_end


def test_cuda_that_comes_up_late_is_recorded(tmp_path: Path) -> None:
    text = (
        "import torch\n"
        "try: torch.ones(1, device='cuda:7')\n"
        "except Exception as error: print(type(error).__name__)\n" + PROGRAM
    )
    shown = run(tmp_path, text)
    assert shown.status == 0, shown.err
    assert "cuda:0: peak 8.00 KiB" in shown.err.decode()
