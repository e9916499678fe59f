"""A model and a function compiled by Inductor: training, inference, and on its own."""

from __future__ import annotations

import torch
from torch import nn

import memtrace


class Block(nn.Module):
    """Two linear layers with something to fuse between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 256)
        self.second = nn.Linear(256, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.first(x))
        h = h * torch.sigmoid(h)
        return self.second(h)


def function(x: torch.Tensor) -> torch.Tensor:
    """Without any module."""
    return torch.relu(x + 1) * 2


def main() -> None:
    """Each part runs once before the stage that the test looks at."""
    torch.manual_seed(0)
    model = Block()
    compiled, compiled_function = torch.compile(model), torch.compile(function)
    x = torch.randn(128, 64)
    with torch.no_grad():
        compiled(x)
        with memtrace.stage("looked at"):
            compiled(x)
        compiled_function(x)
        with memtrace.stage("function"):
            compiled_function(x)
    compiled(x).sum().backward()
    with memtrace.stage("trained"):
        compiled(x).sum().backward()


main()
