"""Trains in many ways, and prints each gradient and each state of an optimizer that it held.

    python held_tensors.py CASE

Looked at by the program itself, at each moment when a gradient or a state can be new.
"""

from __future__ import annotations

import json
import sys

import torch
from torch import nn

torch.manual_seed(0)
held: dict[str, set[tuple[str, int, int, int, str, str]]] = {
    "gradient": set(),
    "optimizer_state": set(),
}


class Eightbit(torch.Tensor):
    """A state of 8 bits, as torchao's and bitsandbytes' optimizers keep it."""

    @staticmethod
    def __new__(cls, codes: torch.Tensor, scale: torch.Tensor):
        return torch.Tensor._make_wrapper_subclass(cls, codes.shape)

    def __init__(self, codes: torch.Tensor, scale: torch.Tensor) -> None:
        self.codes = codes
        self.scale = scale

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise NotImplementedError


def note(kind: str, name: str, tensor: torch.Tensor) -> None:
    if isinstance(tensor, Eightbit):
        note(kind, name, tensor.codes)
        note(kind, name, tensor.scale)
        return
    if tensor.is_sparse:
        note(kind, name, tensor._values())
        note(kind, name, tensor._indices())
        return
    storage = tensor.untyped_storage()
    offset = tensor.storage_offset() * tensor.element_size()
    shape = "x".join(map(str, tensor.shape))
    dtype = str(tensor.dtype).removeprefix("torch.")
    held[kind].add((name, storage.data_ptr(), storage.nbytes(), offset, dtype, shape))


def note_gradients(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            note("gradient", f"grad of {name}", parameter.grad)


def note_values(name: str, key: str, value: object) -> None:
    if isinstance(value, torch.Tensor):
        note("optimizer_state", f"{key} of {name}", value)
    elif isinstance(value, dict):
        for inner_key, inner in value.items():
            note_values(name, str(inner_key), inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            note_values(name, key, inner)


def note_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    names = {parameter: name for name, parameter in model.named_parameters()}
    for parameter, values in optimizer.state.items():
        note_values(names[parameter], "", values)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(40, 30)
        self.second = nn.Linear(30, 20)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).relu())


def train(make_optimizer, *, set_to_none: bool = True, micro_batches: int = 1) -> None:
    model = Net()
    optimizer = make_optimizer(model.parameters())
    for _ in range(3):
        for _ in range(micro_batches):
            model(torch.randn(4, 40)).square().sum().backward()
            note_gradients(model)
        optimizer.step()
        note_state(model, optimizer)
        optimizer.zero_grad(set_to_none=set_to_none)


def lbfgs() -> None:
    model = Net()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)
    data = torch.randn(4, 40)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(data).square().sum()
        loss.backward()
        note_gradients(model)
        return loss

    for _ in range(2):
        optimizer.step(closure)
        note_state(model, optimizer)


def own_gradient() -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(torch.randn(4, 40))
    flat = torch.ones(40 * 30 + 30)
    model.first.weight.grad = flat[: 40 * 30].view(30, 40)
    model.first.bias.grad = flat[40 * 30 :]
    note_gradients(model)
    optimizer.step()


def no_model() -> None:
    first, second = (torch.randn(50, requires_grad=True) for _ in range(2))
    groups = [{"params": [first]}, {"params": [second], "lr": 0.2}]
    optimizer = torch.optim.SGD(groups, 0.1, momentum=0.9)
    names = {first: "param_groups[0].params[0]", second: "param_groups[1].params[0]"}
    kept = []
    for _ in range(2):
        (first * second).sum().backward()
        for parameter, name in names.items():
            note("gradient", f"grad of {name}", parameter.grad)
            kept.append(parameter.grad)
        optimizer.step()
        for parameter, values in optimizer.state.items():
            note_values(names[parameter], "", values)
        optimizer.zero_grad()


def sparse() -> None:
    model = nn.Embedding(100, 16, sparse=True)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(2):
        model(torch.arange(10)).square().sum().backward()
        note_gradients(model)
        optimizer.step()
        optimizer.zero_grad()


def in_backward() -> None:
    """The optimizer steps within the backward, which lets gradients go at once."""
    model = Net()
    names = {parameter: name for name, parameter in model.named_parameters()}
    optimizers = {p: torch.optim.SGD([p], 0.1, momentum=0.9) for p in model.parameters()}

    def hook(parameter: torch.Tensor) -> None:
        note("gradient", f"grad of {names[parameter]}", parameter.grad)
        optimizers[parameter].step()
        note_state(model, optimizers[parameter])
        optimizers[parameter].zero_grad()

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(hook)
    for _ in range(3):
        model(torch.randn(4, 40)).square().sum().backward()


class Odd(torch.optim.Optimizer):
    """Keeps its state in nested containers and wrappers, and things in it that are no tensors."""

    def __init__(self, params) -> None:
        super().__init__(params, {})
        self.elsewhere = {"count": 0}

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state.setdefault("count", 0)
                state.setdefault("pair", ({"low": torch.zeros_like(p)}, [torch.ones(3), None]))
                codes = torch.zeros(p.shape, dtype=torch.int8)
                state.setdefault("eightbit", Eightbit(codes, torch.ones(7)))
                halves = torch.zeros(2, *p.shape)
                state.setdefault("halves", list(halves.unbind()))
                p.sub_(p.grad * 0.1)


def late_parameter() -> None:
    """A part that is put into the model when it is known already."""
    model = Net()
    model(torch.randn(4, 40))
    model(torch.randn(4, 40)).sum().backward()
    note_gradients(model)
    model.second = nn.Linear(30, 10)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model.zero_grad()
    model(torch.randn(4, 40)).sum().backward()
    note_gradients(model)
    optimizer.step()
    note_state(model, optimizer)


def adamw(**options: bool):
    return lambda params: torch.optim.AdamW(params, amsgrad=True, **options)


def sgd(params):
    return torch.optim.SGD(params, 0.1, momentum=0.9)


CASES = {
    "sgd": lambda: train(sgd),
    "adamw_foreach": lambda: train(adamw(foreach=True)),
    "adamw_for_loop": lambda: train(adamw(foreach=False)),
    "adamw_fused": lambda: train(adamw(fused=True)),
    "adagrad": lambda: train(torch.optim.Adagrad),
    "lbfgs": lbfgs,
    "adafactor": lambda: train(torch.optim.Adafactor),
    "accumulate": lambda: train(sgd, micro_batches=3),
    "set_to_zero": lambda: train(sgd, set_to_none=False),
    "own_gradient": own_gradient,
    "no_model": no_model,
    "sparse": sparse,
    "in_backward": in_backward,
    "nested_state": lambda: train(Odd),
    "late_parameter": late_parameter,
}


def main() -> None:
    CASES[sys.argv[1]]()
    print(json.dumps({kind: sorted(tensors) for kind, tensors in held.items()}))


main()
