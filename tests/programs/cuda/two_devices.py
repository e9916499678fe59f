"""A model split over two devices: activations cross over, each device has its own peak."""

from __future__ import annotations

import torch
from torch import nn

DEVICES = 2
SINGLE_THREADED = True


def main() -> None:
    """Trains a pipeline of two stages; device 1 keeps its stage until after device 0's is gone."""
    torch.manual_seed(0)
    front = nn.Sequential(nn.Linear(512, 2048), nn.ReLU()).to("cuda:0")
    back = nn.Sequential(nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 8)).to("cuda:1")
    optimizer = torch.optim.Adam([*front.parameters(), *back.parameters()])
    for _ in range(3):
        hidden = front(torch.randn(128, 512, device="cuda:0"))
        loss = back(hidden.to("cuda:1")).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.cuda.device(1):
        torch.empty(20 << 20, dtype=torch.uint8, device="cuda")
    del front, optimizer, hidden, loss
    torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
