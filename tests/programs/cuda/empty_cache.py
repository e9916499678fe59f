"""empty_cache at several points: with all free, with some in use, with nothing to give back."""

from __future__ import annotations

import torch

SINGLE_THREADED = True

KEPT: list[torch.Tensor] = []


def tensor(size_bytes: int) -> torch.Tensor:
    """Returns a tensor of so many bytes."""
    return torch.empty(size_bytes, dtype=torch.uint8, device="cuda")


def main() -> None:
    """Allocates, frees and empties; the last tensors live until the exit."""
    torch.cuda.empty_cache()
    first = [tensor(size << 20) for size in (100, 30, 7)]
    small = [tensor(size) for size in (1, 1000, 700_000, 1_048_576, 900_000)]
    del first[1], small[2]
    torch.cuda.empty_cache()
    first.append(tensor(25 << 20))
    del first, small
    torch.cuda.empty_cache()
    torch.cuda.empty_cache()
    KEPT.extend([tensor(60 << 20), tensor(3 << 20), tensor(512)])


if __name__ == "__main__":
    main()
