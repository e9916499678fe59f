"""What made each node of autograd: the line (anomaly mode) and the module (hooks on all)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

_FRAME = re.compile(r'File "(.+)", line (\d+), in ')


def line_of(node: Any) -> str | None:
    """The innermost line outside torch of the call that made the node."""
    for text in reversed(node.metadata.get("traceback_", [])):
        for file, line in reversed(_FRAME.findall(text)):
            if "/site-packages/torch/" not in file and not file.startswith("<"):
                return f"{file}:{line}"
    return None


class Modules:
    """Which numbers of nodes were given out while which module was the innermost.

    One that hangs in no module of the model (an activation in a list) is known by its class.
    """

    def __init__(self, model: nn.Module) -> None:
        self.spans: list[tuple[int, int, str]] = []  # inner ones come first
        self._begun: list[int] = []
        self._names = {module: name for name, module in model.named_modules()}
        self._handles = [
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave),
        ]

    def _enter(self, *_: object) -> None:
        self._begun.append(torch.autograd._get_sequence_nr())

    def _leave(self, module: nn.Module, *_: object) -> None:
        shown = self._names.get(module) or type(module).__name__
        self.spans.append((self._begun.pop(), torch.autograd._get_sequence_nr(), shown))

    def remove(self) -> None:
        """No hooks any more."""
        for handle in self._handles:
            handle.remove()

    def of(self, number: int) -> str | None:
        """The module of the node with that number."""
        for begin, end, shown in self.spans:
            if begin <= number < end:
                return shown
        return None


def nodes_of(root: Any) -> list[Any]:
    """All nodes of a graph that a forward call made."""
    found: dict[Any, None] = {}
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if node is None or node in found:
            continue
        found[node] = None
        waiting += [inner for inner, _ in node.next_functions]
    return [node for node in found if "AccumulateGrad" not in node.name()]


def step_with_lines(
    model: nn.Module, forward: Callable[[], torch.Tensor]
) -> dict[int, tuple[str, str | None, str | None]]:
    """One step on what `forward` returns; number of each node -> its name, "file:line", module."""
    modules = Modules(model)
    with torch.autograd.set_detect_anomaly(True, check_nan=False):
        loss = forward()
        modules.remove()
        facts = {
            node._sequence_nr(): (node.name(), line_of(node), modules.of(node._sequence_nr()))
            for node in nodes_of(loss.grad_fn)
        }
    loss.backward()
    return facts
