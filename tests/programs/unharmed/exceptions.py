"""Exceptions in forward, in backward, in hooks and in autograd's threads; and everything after."""

from __future__ import annotations

import traceback

import torch
from torch import nn


class Failing(nn.Module):
    """Raises after it has allocated."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x + 1
        raise ValueError(f"in forward {y.sum().item()}")


class Backward(torch.autograd.Function):
    """Raises in its backward."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        torch.ones(10)
        raise RuntimeError("in backward")


def attempt(function, *args) -> None:
    try:
        function(*args)
    except Exception:
        traceback.print_exc()


def main() -> None:
    torch.manual_seed(0)
    x = torch.ones(3, requires_grad=True)
    for _ in range(3):
        attempt(nn.Sequential(nn.Linear(3, 3), Failing()), torch.zeros(3))
    attempt(lambda: Backward.apply(x).sum().backward())
    attempt(lambda: torch.ones(2, 3) @ torch.ones(2, 3))
    attempt(lambda: torch.empty(1 << 60))
    attempt(lambda: torch.empty(-1))
    linear = nn.Linear(3, 3)
    handle = linear.register_forward_hook(lambda *_: 1 / 0)
    attempt(linear, torch.ones(3))
    handle.remove()

    def generator():
        y = torch.ones(5)
        yield y
        yield y + 1

    values = generator()
    next(values)
    attempt(values.throw, KeyError("thrown"))

    def recurse(depth: int) -> torch.Tensor:
        return torch.ones(1) + recurse(depth + 1)

    try:
        recurse(0)
    except RecursionError as error:
        print(error)
    print(linear(torch.ones(3)).shape)
    raise SystemExit("at the end")


main()
