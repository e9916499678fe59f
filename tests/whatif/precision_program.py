"""A small model in a dtype: what becomes of float32 in it is torch's own doing.

    python precision_program.py float32|float16|bfloat16 plain|autocast|infer|train

`plain` has layers of float32 alone, and `autocast` runs them in bfloat16; the other two have an RMS
norm, attention with dropout, and a loss on logits in float32.
"""

from __future__ import annotations

import sys

import torch
from torch import nn


class TinyRMSNorm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dtype = x.dtype
        x = x.to(torch.float32)
        variance = x.pow(2).mean(-1, keepdim=True)
        x = x * torch.rsqrt(variance + 1e-6)
        return self.weight * x.to(dtype)


class Block(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm = TinyRMSNorm(size)
        self.mix = nn.Linear(size, 3 * size)
        self.out = nn.Linear(size, size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, size = x.shape
        parts = self.mix(self.norm(x)).view(batch, length, 3, 4, size // 4)
        query, key, value = (part.transpose(1, 2) for part in parts.unbind(2))
        mixed = nn.functional.scaled_dot_product_attention(
            query, key, value, dropout_p=0.1 if self.training else 0.0
        )
        return x + self.out(mixed.transpose(1, 2).reshape(batch, length, size))


def main() -> None:
    """Two calls, or two steps of training."""
    dtype, mode = getattr(torch, sys.argv[1]), sys.argv[2]
    torch.manual_seed(0)
    if mode in ("plain", "autocast"):
        layers = [nn.Linear(128, 512), nn.GELU(), nn.LayerNorm(512), nn.Linear(512, 128)]
        model: nn.Module = nn.Sequential(*layers).to(dtype)
    else:
        model = nn.Sequential(*[Block(128) for _ in range(4)], nn.Linear(128, 1000)).to(dtype)
    model.train(mode == "train")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        x = torch.randn(4, 128, 128).to(dtype)
        if mode != "train":
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, mode == "autocast"):
                model(x)
            continue
        model(x).float().pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()


if __name__ == "__main__":
    main()
