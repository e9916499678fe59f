"""A small model whose every allocation in the forward says beforehand what it will be.

`# -> OPERATOR @ MODULE` on a line: running it allocates once, by that operator in that module (of
that path; `-`: outside any module). Several, split by `;`, in their order.
"""

from __future__ import annotations

import torch
from torch import nn

import memtrace


class Gate(nn.Module):
    """A module that calls a function and a module of torch's."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(7))
        self.inner = nn.Linear(7, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x * self.scale  # -> aten::mul @ {path}
        y = self.inner(y)  # -> aten::addmm @ {path}.inner
        return squash(y)


def squash(x: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x)  # -> aten::tanh @ {path}


class Model(nn.Module):
    """Gates in a ModuleList and a Sequential, and operators of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.ModuleList([Gate(), Gate()])
        self.tail = nn.Sequential(nn.Linear(10, 3), nn.ReLU(), nn.Linear(3, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = []
        for gate in self.gates:
            parts.append(gate(x))
        x = torch.cat(parts, 1)  # -> aten::cat @ Model
        x = self.tail(x)  # -> aten::addmm @ tail.0; aten::clamp_min @ tail.1; aten::addmm @ tail.2
        y = x.new_zeros(4, 2)  # -> aten::new_zeros @ Model
        return y + x  # -> aten::add @ Model


def main() -> None:
    model = Model()
    with torch.no_grad():
        x = torch.empty(4, 7)
        x.normal_()
        model(x)  # from here on the model is known
        with memtrace.stage("forward"):
            kept = model(x)
            noise = torch.rand(3)  # -> aten::rand @ -
    assert kept is not noise


main()
