"""Runs a program of tests/programs/gpu, and keeps what torch, CUDA and NVML say at its end.

python benchmarks/gpu/account.py PROGRAM.py OUT.json
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path

import torch


def account() -> dict[str, int | None]:
    """All in bytes; None: not told."""
    import pynvml

    pynvml.nvmlInit()
    gpu = pynvml.nvmlDeviceGetHandleByIndex(torch.cuda.current_device())
    running = pynvml.nvmlDeviceGetComputeRunningProcesses(gpu)
    own = [process.usedGpuMemory for process in running if process.pid == os.getpid()]
    memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
    free_bytes, total_bytes = torch.cuda.mem_get_info()
    return {
        "torch: peak of allocated": torch.cuda.max_memory_allocated(),
        "torch: peak of reserved": torch.cuda.max_memory_reserved(),
        "torch: allocated": torch.cuda.memory_allocated(),
        "torch: reserved": torch.cuda.memory_reserved(),
        "CUDA: used": total_bytes - free_bytes,
        "CUDA: total": total_bytes,
        "NVML: this process": own[0] if own else None,
        "NVML: used": memory.used,
        "NVML: total": memory.total,
    }


def main() -> None:
    program, out = sys.argv[1:3]
    kept = runpy.run_path(program, run_name="__main__")
    Path(out).write_text(json.dumps(account()))
    del kept


if __name__ == "__main__":
    main()
