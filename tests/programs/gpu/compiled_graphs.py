"""A model compiled with CUDA graphs (reduce-overhead): torch's trees of graphs, in their pool."""

from __future__ import annotations

import torch

SINGLE_THREADED = True


@torch.no_grad()
def main() -> None:
    """Warm-up, capture and replays, for two shapes."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(256, 512), torch.nn.GELU(), torch.nn.Linear(512, 16)]
    model = torch.nn.Sequential(*layers).cuda().eval()
    compiled = torch.compile(model, mode="reduce-overhead", dynamic=False)
    for batch in (64, 32):
        for _ in range(5):
            compiled(torch.randn(batch, 256, device="cuda")).sum().item()
    torch.cuda.synchronize()


if __name__ == "__main__":
    main()
