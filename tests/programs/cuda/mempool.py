"""Private memory pools: torch.cuda.MemPool, used twice, freed in and out of use."""

from __future__ import annotations

import torch

SINGLE_THREADED = True


def main() -> None:
    """Allocates in two pools and in the default one."""
    outside = torch.empty(6 << 20, dtype=torch.uint8, device="cuda")
    pool = torch.cuda.MemPool()
    other = torch.cuda.MemPool()
    with torch.cuda.use_mem_pool(pool):
        first = torch.empty(30 << 20, dtype=torch.uint8, device="cuda")
        small = torch.empty(1000, device="cuda")
    with torch.cuda.use_mem_pool(other):
        second = torch.empty(5 << 20, dtype=torch.uint8, device="cuda")
    del first
    with torch.cuda.use_mem_pool(pool):
        again = torch.empty(20 << 20, dtype=torch.uint8, device="cuda")
        del small
    torch.cuda.empty_cache()
    del again, pool
    torch.cuda.empty_cache()
    del second, other, outside


if __name__ == "__main__":
    main()
