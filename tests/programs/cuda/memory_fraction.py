"""A limit below the device's memory: allocations fail, or garbage collection starts, before."""

from __future__ import annotations

import torch

MEMORY_MB = 1024
SINGLE_THREADED = True
REACTS_TO_OOM = True


def tensor(size_mb: int) -> torch.Tensor:
    """Returns a tensor of so many MiB."""
    return torch.empty(size_mb << 20, dtype=torch.uint8, device="cuda")


def main() -> None:
    """Fills a quarter of the device, hits the limit, raises it."""
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(0.25)
    live = []
    for size_mb in (24, 30, 22, 40, 26, 34):
        live.append(tensor(size_mb))
        if len(live) > 2:
            del live[0]
    try:
        tensor((total >> 20) // 4)
    except torch.OutOfMemoryError:
        live.clear()
    live.append(tensor((total >> 20) // 8))
    torch.cuda.set_per_process_memory_fraction(0.6)
    live.append(tensor((total >> 20) // 3))
    torch.cuda.set_per_process_memory_fraction(1.0)


if __name__ == "__main__":
    main()
