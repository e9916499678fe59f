"""LSTMs in a dtype: python recurrent_program.py DTYPE infer|train."""

from __future__ import annotations

import sys

import torch
from torch import nn


class Reader(nn.Module):
    """Two directions, two layers; sizes are no multiples of a cache line."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(36, 72, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(144, 20)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(x)[0])


def main() -> None:
    dtype, train = getattr(torch, sys.argv[1]), sys.argv[2] == "train"
    model = Reader().to(dtype)
    for _ in range(2):
        x = torch.randn(6, 80, 36).to(dtype)
        if train:
            model(x).float().pow(2).mean().backward()
            model.zero_grad()
        else:
            with torch.no_grad():
                model(x)


main()
