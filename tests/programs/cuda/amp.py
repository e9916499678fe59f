"""Mixed precision: autocast's cached casts, GradScaler and the fused AdamW."""

from __future__ import annotations

import torch
from torch import nn

SINGLE_THREADED = True
# autocast drops its cached casts in the order of a hash table of addresses.
REPEATABLE = False


def main() -> None:
    """Trains in float16 with scaled gradients."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(256, 8, 1024, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    scaler = torch.amp.GradScaler("cuda")
    for _ in range(3):
        with torch.autocast("cuda", dtype=torch.float16):
            loss = model(torch.randn(8, 64, 256, device="cuda")).float().pow(2).mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()


if __name__ == "__main__":
    main()
