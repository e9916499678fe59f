"""Memory pools with rules of their own: one that never splits, one with an allocator of its own."""

from __future__ import annotations

import inspect
import subprocess
import tempfile
from pathlib import Path

import torch

SINGLE_THREADED = True

MIB = 1 << 20
ALLOCATOR = """
#include <stddef.h>
extern int cudaMalloc(void**, size_t);
extern int cudaFree(void*);
void* take(ptrdiff_t size, int device, void* stream) {
  void* memory = 0;
  cudaMalloc(&memory, size);
  return memory;
}
void give(void* memory, ptrdiff_t size, int device, void* stream) { cudaFree(memory); }
"""


def empty(size_bytes: int) -> torch.Tensor:
    return torch.empty(size_bytes, dtype=torch.uint8, device="cuda")


def own_allocator() -> object:
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "own.c"), Path(folder, "own.so")
        source.write_text(ALLOCATOR)
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
        return torch.cuda.memory.CUDAPluggableAllocator(str(library), "take", "give")


def use(pool: torch.cuda.MemPool) -> list[torch.Tensor]:
    with torch.cuda.use_mem_pool(pool):
        kept = [empty(3 * MIB), empty(4096), empty(int(9.5 * MIB)), empty(int(9.7 * MIB))]
        dropped = empty(5 * MIB)
        del dropped
        kept.append(empty(4 * MIB))  # in the block that was left
        kept.append(empty(30 * MIB))
    return kept


def main() -> None:
    """Allocates in such pools and, between them, in the default one."""
    outside = [empty(3 * MIB), empty(4096)]
    if "no_split" in inspect.signature(torch.cuda.MemPool.__init__).parameters:
        whole = torch.cuda.MemPool(no_split=True)
        in_whole = use(whole)
        outside.append(empty(2 * MIB))
        del in_whole[1:3]
        torch.cuda.empty_cache()
        in_whole += use(whole)
    allocator = own_allocator()
    own = torch.cuda.MemPool(allocator.allocator())
    in_own = use(own)
    outside.append(empty(7 * MIB))
    del in_own[2:]
    torch.cuda.empty_cache()
    in_own += use(own)
    del in_own, own
    torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
