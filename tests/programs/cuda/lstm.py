"""An LSTM without cuDNN: thousands of small, short-lived blocks."""

from __future__ import annotations

import torch
from torch import nn

SINGLE_THREADED = True


def main() -> None:
    """Trains on sequences of two lengths."""
    torch.manual_seed(0)
    torch.backends.cudnn.enabled = False
    model = nn.LSTM(64, 128, num_layers=2, batch_first=True).cuda()
    optimizer = torch.optim.RMSprop(model.parameters())
    for length in (20, 35):
        outputs, _ = model(torch.randn(16, length, 64, device="cuda"))
        outputs.pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()


if __name__ == "__main__":
    main()
