"""A model compiled by Inductor, trained: Triton's kernels, and buffers of generated code."""

from __future__ import annotations

import torch

SINGLE_THREADED = True


def main() -> None:
    """Three steps."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(256, 512), torch.nn.GELU(), torch.nn.LayerNorm(512)]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(512, 16)).cuda()
    optimizer = torch.optim.AdamW(model.parameters())
    compiled = torch.compile(model)
    for _ in range(3):
        optimizer.zero_grad()
        compiled(torch.randn(64, 256, device="cuda")).square().mean().backward()
        optimizer.step()
    torch.cuda.synchronize()


if __name__ == "__main__":
    main()
