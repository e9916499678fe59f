"""Serves two batches of prompts with a KV cache, and one that is larger than both."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from llama import decoder, prompts, serve

SINGLE_THREADED = True
MEMORY_MB = 65536

KEPT: list[object] = []


def main() -> None:
    """The model lives until the exit."""
    model = decoder().eval()
    for batch, length in ((8, 512), (8, 512), (16, 1024)):
        serve(model, prompts(batch, length), tokens=32)
    torch.cuda.synchronize()
    KEPT.append(model)


if __name__ == "__main__":
    main()
