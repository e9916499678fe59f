"""A forward pass that raises: its tensors live as long as the traceback does."""

from __future__ import annotations

import torch
from torch import nn

SINGLE_THREADED = True


class Failing(nn.Module):
    """Allocates, then raises."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Raises ValueError with a large tensor in this frame."""
        doubled = inputs * 2
        raise ValueError(f"cannot go on with {tuple(doubled.shape)}")


def main() -> None:
    """Catches the error, allocates while it is kept, and goes on after it is dropped."""
    model = nn.Sequential(nn.Linear(1024, 1024), Failing()).cuda()
    kept: Exception | None = None
    try:
        model(torch.randn(4096, 1024, device="cuda"))
    except ValueError as error:
        kept = error
    other = torch.empty(16 << 20, dtype=torch.uint8, device="cuda")
    del kept
    model[0](torch.randn(4096, 1024, device="cuda")).sum().backward()
    del other


if __name__ == "__main__":
    main()
