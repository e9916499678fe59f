"""A seeded training run with dropout, on two threads: the loss curve and a hash of the weights."""

from __future__ import annotations

import hashlib
import random

import torch
from torch import nn


def main() -> None:
    torch.manual_seed(11)
    random.seed(11)
    torch.set_num_threads(2)
    model = nn.Sequential(
        nn.Linear(64, 128), nn.GELU(), nn.Dropout(0.2),
        nn.TransformerEncoderLayer(128, 4, 64, batch_first=True), nn.Linear(128, 8),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    for _ in range(20):
        x = torch.randn(16, 9, 64)
        y = torch.randint(8, (16, 9))
        loss = nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        print(loss.item().hex())
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    print(digest.hexdigest(), random.random(), torch.rand(2).tolist())


main()
