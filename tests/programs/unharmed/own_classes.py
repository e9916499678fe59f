"""Classes of the program's own that count, or forbid, what is asked of their instances."""

from __future__ import annotations

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

counts: dict[str, int] = {}


def count(name: str) -> None:
    counts[name] = counts.get(name, 0) + 1


class Asked(nn.Module):
    """Whatever attribute is asked for, its class is asked first."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)

    def __getattribute__(self, name: str) -> object:
        count(name)
        return super().__getattribute__(name)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1


class Shy(nn.Module):
    """Nobody may see its dictionary."""

    @property
    def __dict__(self):  # noqa: PLW3201
        raise SystemExit(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 2


class Counted(dict):
    """A dictionary that is told of every look into it."""

    def items(self):
        count("items")
        return super().items()

    def __bool__(self) -> bool:
        count("bool")
        return len(self) > 0


class Own(torch.Tensor):
    """A tensor that answers itself."""

    def untyped_storage(self):
        count("untyped_storage")
        return super().untyped_storage()

    def element_size(self) -> int:
        count("element_size")
        return super().element_size()

    @property
    def device(self):
        count("device")
        return super().device

    @property
    def shape(self):
        count("shape")
        return super().shape


def main() -> None:
    torch.manual_seed(0)
    models: list[nn.Module] = [Asked(), Shy()]
    plain = nn.Linear(4, 4)
    plain._modules = Counted(plain._modules)
    plain._parameters = Counted(plain._parameters)
    models.append(plain)
    own = nn.Linear(4, 4)
    own.weight = nn.Parameter(torch.ones(4, 4).as_subclass(Own))
    models.append(own)
    with torch.no_grad():
        for _ in range(4):
            for model in models:
                print(model(torch.zeros(4)).tolist())
    with FakeTensorMode():  # to ask one of these where it lies is warned of
        fake = nn.Linear(4, 4)
        for _ in range(3):
            fake(torch.zeros(4))
    print(sorted(counts.items()))


main()
