"""Fragmentation: blocks of slowly growing size, with a survivor in each segment."""

from __future__ import annotations

import torch

MEMORY_MB = 2048
SINGLE_THREADED = True

KEPT: list[torch.Tensor] = []


def tensor(size_bytes: int) -> torch.Tensor:
    """Returns a tensor of so many bytes."""
    return torch.empty(size_bytes, dtype=torch.uint8, device="cuda")


def main() -> None:
    """Leaves a checkerboard of free blocks that no larger request fits into."""
    for step in range(12):
        large = tensor((21 + 3 * step) << 20)
        del large
        KEPT.append(tensor(2 << 20))
    board = [tensor(4 << 20) for _ in range(30)]
    del board[::2]
    KEPT.extend(board)
    tensor(50 << 20)


if __name__ == "__main__":
    main()
