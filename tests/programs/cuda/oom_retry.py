"""Runs out of memory: caught, halved and tried again; then a retry that succeeds by itself."""

from __future__ import annotations

import torch

MEMORY_MB = 1024
SINGLE_THREADED = True
REACTS_TO_OOM = True


def tensor(size_mb: int) -> torch.Tensor:
    """Returns a tensor of so many MiB."""
    return torch.empty(size_mb << 20, dtype=torch.uint8, device="cuda")


def main() -> None:
    """Halves the batch until it fits, as training scripts do."""
    _, total = torch.cuda.mem_get_info()
    held = [tensor((total >> 20) // 8)]
    batch_mb = (total >> 20) * 2
    while True:
        try:
            held.append(tensor(batch_mb))
            break
        except torch.OutOfMemoryError:
            batch_mb //= 2
    # Cached blocks of the wrong size: the allocator frees them, and its second try succeeds.
    held.clear()
    cached = [tensor(25) for _ in range(8)]
    del cached
    large = tensor((total >> 20) * 5 // 8)
    try:
        tensor(total >> 19)
    except torch.OutOfMemoryError:
        pass
    del large
    torch.empty(1000, device="cuda")


if __name__ == "__main__":
    main()
