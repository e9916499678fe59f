"""deepcopy, pickle, __dict__ and weak references of modules and tensors; subclasses of Tensor."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import sys
import weakref

import torch
from torch import nn


class Named(torch.Tensor):
    """A subclass that counts every torch function on it."""

    calls = 0

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        cls.calls += 1
        return super().__torch_function__(function, types, args, kwargs or {})


class Observed(nn.Module):
    """A module that counts what is read of it."""

    read = 0

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3).as_subclass(Named), requires_grad=False)

    def __getattr__(self, name: str) -> object:
        Observed.read += 1
        return super().__getattr__(name)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight + x


def main() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    model(torch.randn(5, 4))
    twin = copy.deepcopy(model)
    again = pickle.loads(pickle.dumps(model))
    for one in (twin, again):
        print(all(torch.equal(a, b) for a, b in zip(model.parameters(), one.parameters())))
    print(sorted(model[0].__dict__), len(pickle.dumps(model)))
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    print(len(file.getvalue()))
    print(list(torch.load(io.BytesIO(file.getvalue()))))
    reference = weakref.ref(model)
    print(weakref.getweakrefcount(model), sys.getrefcount(model))
    del model
    gc.collect()
    print(reference())
    observed = Observed()
    for _ in range(3):
        observed(torch.zeros(3))
    print(Observed.read, Named.calls)
    collected = []
    thing = nn.Linear(2, 2)
    weakref.finalize(thing, collected.append, 1)
    thing(torch.ones(1, 2))
    del thing
    print(collected, len(gc.garbage), gc.get_threshold(), gc.isenabled())


main()
