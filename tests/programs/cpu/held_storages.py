"""What a program holds, by its own account: every storage that a tensor of it can reach.

`mark(name)` begins a stage of that name and looks at all tensors alive, with their gradients and
what autograd saved for their backward; `write(path)` leaves the account as JSON. Nothing here
allocates tensors.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from typing import Any

import torch

import memtrace

_marks: list[dict[str, Any]] = []


def mark(name: str) -> None:
    """A stage of this name begins, and this is held at its beginning."""
    with memtrace.stage(name):
        _marks.append({"name": name, **held()})


def held(without: dict[str, list[tuple[int, int]]] | None = None) -> dict[str, Any]:
    """The storages held: (address, bytes), those of the allocator apart from all others."""
    own: set[tuple[int, int]] = set()
    foreign: set[tuple[int, int]] = set()
    for tensor in _tensors():
        if tensor.device.type != "cpu" or tensor.layout != torch.strided:
            continue
        storage = tensor.untyped_storage()
        if storage.data_ptr() == 0 or storage.nbytes() == 0:
            continue
        # Memory that torch was handed (files, numpy, shared memory) cannot be resized by it.
        given = storage.resizable() and not storage.is_shared()
        place = own if given else foreign
        place.add((storage.data_ptr(), storage.nbytes()))
    found = {"own": sorted(own), "foreign": sorted(foreign)}
    if without:
        found = {key: [s for s in value if s not in without[key]] for key, value in found.items()}
    return found


def write(path: str) -> None:
    """Leave the account."""
    with open(path, "w") as file:
        json.dump(_marks, file)


def _tensors() -> Iterator[torch.Tensor]:
    visited: set[int] = set()
    for thing in gc.get_objects():
        if not issubclass(type(thing), torch.Tensor):
            continue
        yield thing
        if thing.is_leaf:
            if thing.grad is not None:
                yield thing.grad
        else:
            yield from _saved(thing.grad_fn, visited)


def _saved(node: Any, visited: set[int]) -> Iterator[torch.Tensor]:
    """What autograd keeps alive for the backward of a graph."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if node is None or id(node) in visited:
            continue
        visited.add(id(node))
        waiting += [following for following, _ in node.next_functions]
        for name in dir(node):
            if not name.startswith("_saved_"):
                continue
            try:
                value = getattr(node, name)
            except RuntimeError:  # its backward has run: nothing is kept
                continue
            for item in value if isinstance(value, (tuple, list)) else (value,):
                if isinstance(item, torch.Tensor):
                    yield item
