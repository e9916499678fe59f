"""A stand-in for torch.nn.Module: what the walk knows of it, and nothing else."""

from __future__ import annotations

from typing import Any


class Module:
    hooked = False

    def _wrapped_call_impl(self, *args: Any, **kwargs: Any) -> Any:
        return self._call_impl(*args, **kwargs)

    def _call_impl(self, *args: Any, **kwargs: Any) -> Any:
        def inner() -> Any:
            return self.forward(*args, **kwargs)

        return inner() if self.hooked else self.forward(*args, **kwargs)

    __call__ = _wrapped_call_impl


class Leaf(Module):
    def __init__(self, take: Any) -> None:
        self.take = take

    def forward(self) -> int:
        return self.take()


class Chain(Module):
    def __init__(self, *parts: Module) -> None:
        self.parts = parts

    def forward(self) -> list[int]:
        return [part() for part in self.parts]
