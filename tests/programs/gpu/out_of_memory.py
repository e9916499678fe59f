"""A limit of 2 GiB is hit for real, the error is caught, and the program goes on."""

from __future__ import annotations

import torch

SINGLE_THREADED = True
REACTS_TO_OOM = True


def main() -> None:
    """Fills the limit with blocks of 300 MiB, lets go of half of them, and asks again."""
    _, total_bytes = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction((2 << 30) / total_bytes)
    live = []
    try:
        for _ in range(20):
            live.append(torch.empty(300 << 20, dtype=torch.uint8, device="cuda"))
    except torch.OutOfMemoryError:
        del live[::2]
    live.append(torch.empty(500 << 20, dtype=torch.uint8, device="cuda"))
    torch.cuda.set_per_process_memory_fraction(1.0)


if __name__ == "__main__":
    main()
