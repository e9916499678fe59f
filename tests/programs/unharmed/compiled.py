"""torch.compile, jit, fx: no graph break, recompile or guard more than without us."""

from __future__ import annotations

import json

import torch
import torch._dynamo
from torch import nn
from torch._dynamo.utils import counters


class Block(nn.Module):
    """Has a branch on a shape, a buffer and a submodule."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] > 3:
            x = x * 2
        return torch.relu(self.inner(x)) + self.seen


def main() -> None:
    torch.manual_seed(0)
    explained = torch._dynamo.explain(Block())(torch.ones(2, 8))
    print(explained.graph_count, explained.graph_break_count, explained.op_count)
    for backend in ("eager", "aot_eager"):
        torch._dynamo.reset()
        counters.clear()
        model = torch.compile(nn.Sequential(Block(), Block()), backend=backend, fullgraph=True)
        for rows in (2, 2, 5, 6, 7):
            model(torch.full((rows, 8), 0.5)).sum().backward()
        gradient = model._orig_mod[0].inner.weight.grad
        print(backend, gradient.sum().item().hex())
        print(json.dumps({k: dict(v) for k, v in sorted(counters.items())}, default=str))
    scripted = torch.jit.script(Block())
    print(scripted.code, scripted(torch.ones(4, 8)).shape)
    traced = torch.jit.trace(Block(), torch.ones(4, 8), check_trace=False)
    print(traced.graph.copy().str() if hasattr(traced.graph, "str") else str(traced.code))
    fx = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(8, 8), nn.ReLU()))
    print(fx.code, fx(torch.ones(1, 8)).shape)
    exported = torch.export.export(nn.Sequential(nn.Linear(8, 8), nn.ReLU()), (torch.ones(2, 8),))
    print(exported.graph_module.code)
    print(sorted(nn.modules.module._global_forward_hooks), sorted(Block()._forward_hooks))


main()
