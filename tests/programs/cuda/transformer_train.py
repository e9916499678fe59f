"""A transformer encoder trained with Adam; model, optimizer and last loss live until the exit."""

from __future__ import annotations

import torch
from torch import nn

SINGLE_THREADED = True

KEPT: list[object] = []


def main() -> None:
    """Trains for a few steps with batches of different lengths."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(256, 8, 1024, batch_first=True)
    model = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False).cuda()
    optimizer = torch.optim.Adam(model.parameters())
    for length in (32, 64, 48, 64):
        optimizer.zero_grad()
        loss = model(torch.randn(8, length, 256, device="cuda")).pow(2).mean()
        loss.backward()
        optimizer.step()
    KEPT.extend([model, optimizer, loss])


if __name__ == "__main__":
    main()
