"""Runs models forward and backward, and prints what anomaly mode says of each node of the graph.

    python backward_of_models.py MODEL [DEVICE]

Anomaly mode keeps the Python stack of every node's forward call in the node. The module is the one
that was innermost when the node got its number. Printed: {number: ["file.py:12 forward", module]};
of nodes that a thread of autograd's own made, which has numbers of its own: {"engine NUMBER": ...}.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

torch.manual_seed(0)
WIDTH = 32
device = torch.device(sys.argv[2] if len(sys.argv) > 2 else "cpu")
# Numbers of nodes made in a module, its path, and whether in the main thread.
spans: list[tuple[int, int, str, bool]] = []
facts: dict[str, list[str | None]] = {}


class Views(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, x):
        a, b, c = self.inner(x).chunk(3, dim=-1)
        heads = a.reshape(-1, 4, WIDTH // 4).transpose(0, 1).contiguous()
        part = heads[:, :2].flatten().expand(3, -1)
        return (b * c).sum() + part.square().sum()


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        y = self.linear(x)
        y = y * 2
        y[:, :8].mul_(2.0 * torch.ones(8, device=x.device))
        y.relu_()
        z = torch.zeros_like(y)
        z[:, ::2] = y[:, 1::2]
        z.add_(y)
        return z


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        doubled = x * 2
        return grad * doubled


class Custom(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        y = self.linear(x)
        z = Square.apply(y)
        return z + 1


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(WIDTH, 2 * WIDTH)
        self.down = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x):
        hidden = F.gelu(self.up(x))
        hidden = F.dropout(hidden, 0.1)
        return x + self.down(hidden)


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.embed = nn.Linear(WIDTH, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.reentrant = reentrant

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=self.reentrant)
        return x


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, WIDTH)
        self.block = Block()
        self.head = nn.Linear(WIDTH, 50, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        x = self.block(self.embed(ids))
        x = self.block(x)
        logits = self.head(x)
        return F.cross_entropy(logits.flatten(0, 1), ids.flatten())


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.lstm = nn.LSTM(64, 16, batch_first=True)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.norm(self.conv(x))), 2)
        x, _ = self.lstm(x.flatten(2))
        x, _ = self.attention(x, x, x)
        return F.softmax(x, -1).log()


MODELS = {
    "views": (Views, lambda: torch.randn(8, WIDTH)),
    "in_place": (InPlace, lambda: torch.randn(8, WIDTH)),
    "custom": (Custom, lambda: torch.randn(8, WIDTH)),
    "checkpoint": (lambda: Checkpointed(False), lambda: torch.randn(8, WIDTH)),
    "reentrant": (lambda: Checkpointed(True), lambda: torch.randn(8, WIDTH, requires_grad=True)),
    "shared": (Shared, lambda: torch.randint(0, 50, (2, 8))),
    "net": (Net, lambda: torch.randn(2, 3, 16, 16)),
    "double": (Custom, lambda: torch.randn(8, WIDTH, requires_grad=True)),
    "transformer": (
        lambda: nn.TransformerEncoderLayer(WIDTH, 4, 64, batch_first=True),
        lambda: torch.randn(2, 8, WIDTH),
    ),
}


def line_of(text: list[str]) -> str:
    for file, line, function in re.findall(
        r'File "(.*)", line (\d+), in (.*)', "".join(text[::-1])
    ):
        if "/site-packages/torch/" not in file:
            return f"{Path(file).name}:{line} {function}"
    return "?"


def in_main(node) -> bool:
    """Whether the main thread made it; on the CPU that runs the backward as well."""
    return "parent_" not in node.metadata or device.type == "cpu"


def module_of(node) -> str | None:
    number, main = node._sequence_nr(), in_main(node)
    inside = [span for span in spans if span[0] <= number < span[1] and span[3] == main]
    return min(inside, key=lambda span: span[1] - span[0])[2] if inside else None


def note_graph(root) -> None:
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        number = node._sequence_nr()
        if "traceback_" in node.metadata and number < 1 << 62:
            origin = node
            # Made in the backward of another node, by no forward code that is computed again there.
            while "parent_" in origin.metadata and module_of(origin) is None:
                origin = origin.metadata["parent_"]
            line = line_of(origin.metadata["traceback_"])
            facts[f"{'' if in_main(node) else 'engine '}{number}"] = [line, module_of(origin)]
        waiting += [next_node for next_node, _ in node.next_functions]


def watch_modules(model: nn.Module) -> None:
    paths = {module: path or type(model).__name__ for path, module in model.named_modules()}
    begun: list[int] = []

    def enter(module, args):
        if module in paths:
            begun.append(torch.autograd._get_sequence_nr())

    def leave(module, args, result):
        if module in paths:
            main = threading.current_thread() is threading.main_thread()
            spans.append((begun.pop(), torch.autograd._get_sequence_nr(), paths[module], main))
            if isinstance(result, torch.Tensor):  # also of what checkpointing computes again
                note_graph(result.grad_fn)

    nn.modules.module.register_module_forward_pre_hook(enter)
    nn.modules.module.register_module_forward_hook(leave)


def main() -> None:
    name = sys.argv[1]
    make, inputs = MODELS[name]
    model = make().to(device)
    watch_modules(model)
    with torch.autograd.set_detect_anomaly(True, check_nan=False):
        for _ in range(3):  # gradients are added up
            x = inputs().to(device)
            loss = model(x).sum()
            note_graph(loss.grad_fn)
            if name == "double":
                if not x.is_leaf:
                    x = x.detach()
                (gradient,) = torch.autograd.grad(loss, model.linear.weight, create_graph=True)
                penalty = gradient.square().sum()
                note_graph(penalty.grad_fn)
                penalty.backward()
            else:
                loss.backward()
    print(json.dumps(facts))


main()
