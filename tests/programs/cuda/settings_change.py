"""Allocator settings changed in mid-run: the rules for later blocks differ from earlier ones."""

from __future__ import annotations

import warnings

import torch

SINGLE_THREADED = True

SETTINGS = (
    "roundup_power2_divisions:4",
    "garbage_collection_threshold:0.6",
    "max_split_size_mb:32",
    "expandable_segments:True",
    "expandable_segments:False,max_split_size_mb:64",
)


def tensors() -> list[torch.Tensor]:
    """Returns tensors of sizes that the settings treat differently."""
    sizes = (700, 1_500_000, 5_300_000, 18_000_000, 37_000_000, 70_000_000)
    return [torch.empty(size, dtype=torch.uint8, device="cuda") for size in sizes]


def main() -> None:
    """Allocates and frees under each setting, with something left over from the one before."""
    live = tensors()
    for step, settings in enumerate(SETTINGS):
        with warnings.catch_warnings():
            # Its successor is newer than the oldest torch that memtrace supports.
            warnings.simplefilter("ignore", FutureWarning)
            torch.cuda.memory._set_allocator_settings(settings)
        del live[::2]
        live += tensors()
        del live[:3]
        # The last is larger than most before: the driver is asked.
        for size in (23_000_000, 52_000_000, 85_000_000 + step * 8_000_000):
            torch.empty(size, dtype=torch.uint8, device="cuda")
    del live


if __name__ == "__main__":
    main()
