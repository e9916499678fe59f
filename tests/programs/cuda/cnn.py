"""A small convolutional network without cuDNN: im2col buffers, batch norm, pooling."""

from __future__ import annotations

import torch
from torch import nn

SINGLE_THREADED = True


def block(channels_in: int, channels_out: int) -> nn.Module:
    """Returns convolution, normalisation, activation and pooling."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
    )


def main() -> None:
    """Trains with Adam, then evaluates without gradients on a larger batch."""
    torch.manual_seed(0)
    torch.backends.cudnn.enabled = False
    model = nn.Sequential(
        block(3, 16), block(16, 32), block(32, 64), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(64, 10),
    ).cuda()  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(3):
        images = torch.randn(16, 3, 64, 64, device="cuda")
        labels = torch.zeros(16, dtype=torch.long, device="cuda")
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        model(torch.randn(64, 3, 64, 64, device="cuda"))


if __name__ == "__main__":
    main()
