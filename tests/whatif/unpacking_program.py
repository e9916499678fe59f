"""A small language model, as it is or with linear layers that unpack int8 weights as torchao does.

    python unpacking_program.py float32|int8

The steps of the kernel are those of torchao 0.18: the weights as activations' dtype, the product,
the product times the scales, the bias in place.
"""

from __future__ import annotations

import sys

import torch
from torch import nn


class PackedLinear(nn.Module):
    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        scale = weight.abs().amax(1) / 127
        self.register_buffer("packed", (weight / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("zero", torch.zeros(len(weight), dtype=torch.int8))
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        product = torch.mm(rows, self.packed.t().to(x.dtype)) * self.scale
        product = product.reshape(*x.shape[:-1], -1)
        if self.bias is not None:
            product += self.bias
        return product


def main() -> None:
    """Two calls."""
    torch.manual_seed(0)
    layers = [nn.Linear(256, 1024), nn.GELU(), nn.Linear(1024, 256)]
    model = nn.Sequential(nn.Embedding(2000, 256), *layers, nn.Linear(256, 2000, bias=False))
    if sys.argv[1] == "int8":
        for name, module in list(model.named_children()):
            if isinstance(module, nn.Linear):
                model.set_submodule(name, PackedLinear(module))
        del module
    del layers
    with torch.no_grad():
        for length in (16, 256):
            model(torch.randint(0, 2000, (2, length)))


if __name__ == "__main__":
    main()
