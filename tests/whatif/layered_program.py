"""A model of layers, trained or not, with layers left out or checkpointed, and an optimizer.

python layered_program.py [--train] [--drop 1] [--checkpoint 1] [--optimizer adamw]
"""

from __future__ import annotations

import argparse

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Layer(nn.Module):
    """Residual, as those of a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(64)
        self.up = nn.Linear(64, 256)
        self.down = nn.Linear(256, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.tanh(self.up(self.norm(x))))


class Model(nn.Module):
    """Layers between an embedding and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 64)
        self.layers = nn.ModuleList(Layer() for _ in range(4))
        self.head = nn.Linear(64, 100)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def shared(model: nn.Module, ranks: int) -> None:
    """The model of one rank, its layers as units."""
    from torch.distributed.fsdp import fully_shard
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    mesh = torch.distributed.init_device_mesh("cpu", (ranks,))
    for module in (*model.layers, model):
        fully_shard(module, mesh=mesh)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--drop", type=int, action="append", default=[])
    parser.add_argument("--checkpoint", type=int, action="append", default=[])
    parser.add_argument("--optimizer", default="adamw")
    parser.add_argument("--ranks", type=int)
    options = parser.parse_args()
    model = Model()
    for index in sorted(options.drop, reverse=True):
        del model.layers[index]
    for index in options.checkpoint:
        layer = model.layers[index]
        layer.forward = lambda x, of=layer.forward: checkpoint(of, x, use_reentrant=False)
    if options.ranks:
        shared(model, options.ranks)
    if not options.train:
        with torch.no_grad():
            for _ in range(2):
                model(torch.zeros(8, 16, dtype=torch.int64))
        return
    optimizer = {
        "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.1),
        "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    }[options.optimizer](model.parameters())
    for _ in range(2):
        model(torch.zeros(8, 16, dtype=torch.int64)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()


main()
