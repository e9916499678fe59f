"""Three training steps of the decoder with AdamW."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from llama import decoder, prompts, train_step

SINGLE_THREADED = True
MEMORY_MB = 65536

KEPT: list[object] = []


def main() -> None:
    """Batches of 4 sequences of 512 tokens; all lives until the exit."""
    model = decoder().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    for _ in range(3):
        train_step(model, optimizer, prompts(4, 512))
    torch.cuda.synchronize()
    KEPT.append((model, optimizer))


if __name__ == "__main__":
    main()
