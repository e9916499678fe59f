"""Tensors that are more than they look: wrappers, exchanged parameters, copies on write, masks."""

from __future__ import annotations

import gc
import warnings

import torch
from torch import nn
from torch.masked import masked_tensor

warnings.simplefilter("ignore")  # masked tensors are a prototype


class Wrapper(torch.Tensor):
    """Holds another tensor, and may say that it is a sparse one."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor, layout: torch.layout = torch.strided):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, dtype=inner.dtype, layout=layout
        )

    def __init__(self, inner: torch.Tensor, layout: torch.layout = torch.strided) -> None:
        self.inner = inner

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(inner, meta, size, stride):
        return Wrapper(inner["inner"])

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        def plain(x):
            return x.inner if isinstance(x, Wrapper) else x

        found = function(*map(plain, args), **{k: plain(v) for k, v in (kwargs or {}).items()})
        return cls(found) if isinstance(found, torch.Tensor) else found


class Given(nn.Module):
    def forward(self, *given):
        return torch.ones(2)


class Bomb:
    """Garbage that empties a list when it is collected."""

    def __init__(self, items: list[object]) -> None:
        self.itself = self
        self.items = items

    def __del__(self) -> None:
        self.items.clear()


def exchanged() -> None:
    """torch refuses to exchange what a parameter holds if others refer to it."""
    model = nn.Linear(8, 8)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(3):
        model(torch.ones(2, 8)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.__future__.set_swap_module_params_on_conversion(True)
    model.half()
    torch.__future__.set_swap_module_params_on_conversion(False)
    print(model.weight.dtype)
    wrapped = nn.Linear(8, 8)
    wrapped.weight = nn.Parameter(Wrapper(torch.ones(8, 8)))
    for _ in range(3):
        with torch.no_grad():
            Given()(wrapped.weight)
            wrapped(torch.ones(2, 8))
    wrapped.to(torch.float64)
    print(wrapped.weight.dtype, wrapped.weight.inner.dtype)


def sparse_in_name_alone() -> None:
    for layout in (torch.sparse_coo, torch.sparse_csr):
        print(Given()(Wrapper(torch.ones(4, 4), layout)))
    parameter = nn.Parameter(torch.ones(4, 4))
    data = torch.eye(4).to_sparse()
    mask = torch.sparse_coo_tensor(data.indices(), torch.ones(4, dtype=torch.bool), (4, 4))
    parameter.grad = masked_tensor(data, mask.coalesce())
    try:
        torch.optim.SGD([parameter], 0.1).step()
    except Exception as error:
        print(type(error).__name__)


def copied_on_write() -> None:
    first = torch.ones(64, 64)
    model = Given()
    model.register_buffer("shared", torch._lazy_clone(first))
    for _ in range(3):
        model()
    print(torch._C._is_cow_tensor(model.shared), torch._C._is_cow_tensor(first))


def collected_at_any_moment() -> None:
    """Garbage may be collected wherever Python allocates: nothing may be held unguarded then."""
    model = Given()
    called = 0
    for more in range(-6, 12):
        gc.set_threshold(100_000)
        gc.collect()
        items: list[object] = [Wrapper(torch.zeros(4)) for _ in range(500)]
        Bomb(items)
        gc.set_threshold(max(1, gc.get_count()[0] + more))
        with torch.no_grad():
            model(items)
        called += 1
    gc.set_threshold(700)
    print(called)


def main() -> None:
    exchanged()
    sparse_in_name_alone()
    copied_on_write()
    collected_at_any_moment()


main()
