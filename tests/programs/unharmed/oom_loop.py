"""Runs out of memory by the thousand and catches it, with work between.

    python oom_loop.py cpu|cuda

Sizes that no machine has; one in three is asked for by an operator inside another.
"""

from __future__ import annotations

import sys

import torch

FAILURES = 3000
kept: list[torch.Tensor] = []


def main() -> None:
    device = sys.argv[1]
    counts: dict[str, int] = {}
    for i in range(FAILURES):
        try:
            if i % 3 == 0:
                torch.zeros(4, device=device).expand(1 << 46, 4).contiguous()
            else:
                torch.empty(1 << 50, dtype=torch.uint8, device=device)
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            kind = type(error).__name__
        else:
            kind = "none"
        counts[kind] = counts.get(kind, 0) + 1
        if i % 100 == 0:
            kept.append(torch.empty(10_000 + i, dtype=torch.uint8, device=device))
    print(counts, len(kept))


main()
