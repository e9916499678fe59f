"""A perceptron trained for a few steps: weights, gradients, momentum, activations."""

from __future__ import annotations

import torch
from torch import nn

SINGLE_THREADED = True


def main() -> None:
    """Trains with SGD and momentum."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10)
    ).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(4):
        inputs = torch.randn(256, 512, device="cuda")
        labels = torch.zeros(256, dtype=torch.long, device="cuda")
        loss = nn.functional.cross_entropy(model(inputs), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


if __name__ == "__main__":
    main()
