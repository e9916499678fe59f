"""Training in a dtype, on kernels of oneDNN: python onednn_program.py DTYPE convolutions|layers."""

from __future__ import annotations

import sys

import torch
from torch import nn


def main() -> None:
    dtype = getattr(torch, sys.argv[1])
    if sys.argv[2] == "layers":
        model = nn.Sequential(*[nn.Linear(512, 512) for _ in range(3)])
        shape: tuple[int, ...] = (512, 512)
    else:
        model = nn.Sequential(
            nn.Conv2d(3, 48, 7, stride=2, padding=3), nn.ReLU(),
            nn.Conv2d(48, 96, 3, padding=1), nn.ReLU(), nn.Conv2d(96, 96, 3, padding=1),
        )  # fmt: skip
        shape = (6, 3, 80, 72)
    model = model.to(dtype)
    for _ in range(2):
        model(torch.randn(shape).to(dtype)).float().pow(2).mean().backward()
        model.zero_grad()


main()
