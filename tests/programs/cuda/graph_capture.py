"""CUDA graphs: two captures that share a pool, replayed, one with a forked stream."""

from __future__ import annotations

import torch
from torch import nn

SINGLE_THREADED = True


def main() -> None:
    """Captures a forward pass, and one that forks to a second stream."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(512, 2048), nn.ReLU(), nn.Linear(2048, 512)).cuda()
    inputs = torch.randn(256, 512, device="cuda")
    warmup = torch.cuda.Stream()
    warmup.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(warmup), torch.no_grad():
        for _ in range(2):
            model(inputs)
    torch.cuda.current_stream().wait_stream(warmup)

    first = torch.cuda.CUDAGraph()
    with torch.cuda.graph(first), torch.no_grad():
        outputs = model(inputs)
    second = torch.cuda.CUDAGraph()
    side = torch.cuda.Stream()
    with torch.cuda.graph(second, pool=first.pool()):
        left = outputs * 2
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            right = outputs + 1
        torch.cuda.current_stream().wait_stream(side)
        total = left + right
    for _ in range(3):
        first.replay()
        second.replay()
    eager = torch.empty(16 << 20, dtype=torch.uint8, device="cuda")
    del left, right, total, second
    torch.cuda.empty_cache()
    del outputs, first, eager
    torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
