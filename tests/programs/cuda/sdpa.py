"""Scaled dot product attention by each kernel: the memory they keep for backward differs."""

from __future__ import annotations

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

SINGLE_THREADED = True


def main() -> None:
    """Runs forward and backward with every backend that needs no cuDNN."""
    torch.manual_seed(0)
    shape = (4, 8, 256, 64)
    query, key, value = (
        torch.randn(shape, device="cuda", dtype=torch.float16, requires_grad=True) for _ in range(3)
    )
    backends = (SDPBackend.MATH, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.FLASH_ATTENTION)
    for backend in backends:
        with sdpa_kernel(backend):
            result = torch.nn.functional.scaled_dot_product_attention(
                query, key, value, is_causal=True
            )
            result.sum().backward()
        query.grad = key.grad = value.grad = None


if __name__ == "__main__":
    main()
