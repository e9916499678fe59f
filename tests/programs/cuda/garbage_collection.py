"""The allocator's garbage collection: free segments go back by age once a limit comes near."""

from __future__ import annotations

import warnings

import torch

MEMORY_MB = 1024
SINGLE_THREADED = True


def main() -> None:
    """Frees ever larger tensors, of which each needs a segment of its own."""
    torch.cuda.set_per_process_memory_fraction(0.5)
    with warnings.catch_warnings():
        # Its successor is newer than the oldest torch that memtrace supports.
        warnings.simplefilter("ignore", FutureWarning)
        torch.cuda.memory._set_allocator_settings("garbage_collection_threshold:0.5")
    kept = []
    for step in range(10):
        large = torch.empty((22 + 7 * step) << 20, dtype=torch.uint8, device="cuda")
        kept.append(torch.empty(1000 << step, device="cuda"))
        del large
        if step % 3 == 2:
            # Young again: this one stays.
            torch.empty(22 << 20, dtype=torch.uint8, device="cuda")
    del kept
    torch.cuda.set_per_process_memory_fraction(1.0)


if __name__ == "__main__":
    main()
