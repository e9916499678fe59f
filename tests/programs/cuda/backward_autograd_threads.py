"""Backward passes at the same time: started by two Python threads, run by two devices' threads."""

from __future__ import annotations

import threading

import torch
from torch import nn

DEVICES = 2
SINGLE_THREADED = False


def train(model: nn.Module, device: str) -> None:
    """Trains one model on one device; its backward runs in autograd's thread of the device."""
    for _ in range(6):
        model(torch.randn(64, 256, device=device)).sum().backward()
        model.zero_grad()


def main() -> None:
    """Trains on both devices from two threads, then across both from one."""
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Linear(256, 1024), nn.ReLU(), nn.Linear(1024, 256)) for _ in "01"]
    for index, model in enumerate(models):
        model.to(f"cuda:{index}")
    threads = [
        threading.Thread(target=train, args=(model, f"cuda:{index}"))
        for index, model in enumerate(models)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    inputs = torch.randn(64, 256)
    branches = [model(inputs.to(f"cuda:{i}")).to("cuda:0") for i, model in enumerate(models)]
    torch.stack(branches).sum().backward()


if __name__ == "__main__":
    main()
