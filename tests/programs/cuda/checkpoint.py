"""Activation checkpointing, both kinds: activations of the forward pass come again in backward."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

SINGLE_THREADED = True


def main() -> None:
    """Runs a deep network whose blocks are recomputed."""
    torch.manual_seed(0)
    blocks = nn.ModuleList(
        nn.Sequential(nn.Linear(512, 2048), nn.GELU(), nn.Linear(2048, 512)) for _ in range(6)
    ).cuda()
    for use_reentrant in (False, True):
        hidden = torch.randn(128, 512, device="cuda", requires_grad=True)
        for block in blocks:
            hidden = checkpoint(block, hidden, use_reentrant=use_reentrant)
        hidden.sum().backward()
        blocks.zero_grad()


if __name__ == "__main__":
    main()
