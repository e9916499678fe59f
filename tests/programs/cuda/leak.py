"""A leak: each step keeps its loss with the whole graph behind it, until the exit."""

from __future__ import annotations

import torch
from torch import nn

SINGLE_THREADED = True

HISTORY: list[torch.Tensor] = []


def main() -> None:
    """Trains, and forgets to call `.item()` on what it keeps."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 1)).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    running: torch.Tensor | float = 0.0
    for _ in range(12):
        loss = model(torch.randn(512, 256, device="cuda")).mean()
        loss.backward(retain_graph=True)
        optimizer.step()
        optimizer.zero_grad()
        running = running + loss
        HISTORY.append(loss)
    HISTORY.append(torch.as_tensor(running))


if __name__ == "__main__":
    main()
