"""Training with Adam: parameters, gradients, saved activations, optimizer state."""

from __future__ import annotations

import sys

import held_storages
import torch
from torch import nn


def main() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(37, 53), nn.ReLU(), nn.LayerNorm(53), nn.Linear(53, 11))
    held_storages.mark("model")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, amsgrad=True)
    for step in range(3):
        x, y = torch.randn(29, 37), torch.randn(29, 11)
        held_storages.mark(f"inputs {step}")
        loss = nn.functional.mse_loss(model(x), y)
        held_storages.mark(f"forward {step}")
        loss.backward()
        held_storages.mark(f"backward {step}")
        optimizer.step()
        held_storages.mark(f"step {step}")
        optimizer.zero_grad(set_to_none=step % 2 == 0)
    del loss, x, y
    held_storages.mark("end")
    held_storages.write(sys.argv[1])


main()
