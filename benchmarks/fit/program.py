"""One model, run as the options say: what is recorded to predict from, and to hold against.

    python benchmarks/fit/program.py --model gpt2 --train --batch 2,4 --sequence 64 --device cuda

Calls the model (trains it for one step) per batch size, each time twice.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent))

from models import LARGE, MODELS

RUN = MODELS | LARGE


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=RUN, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--batch", default="2", help="one or more sizes: 2,4")
    parser.add_argument("--calls", type=int, default=2, help="of each batch size")
    parser.add_argument("--sequence", default="64", help="one length, or one for each batch")
    parser.add_argument("--dtype", default="float32")
    optimizers = ("adamw", "sgd", "momentum", "adamw8bit")
    parser.add_argument("--optimizer", default="adamw", choices=optimizers)
    parser.add_argument("--ranks", type=int, default=0, help="FSDP2 over so many, made up")
    parser.add_argument("--foreach", default="default", choices=("default", "yes", "no"))
    parser.add_argument("--drop", action="append", default=[], help="a module to leave out")
    parser.add_argument("--checkpoint", action="append", default=[], help="a module to recompute")
    parser.add_argument("--no-cache", action="store_true", help="no keys and values are kept")
    parser.add_argument("--quantize", default="", help="a scheme of torchao")
    return parser.parse_args()


def call(model: nn.Module, inputs: dict[str, torch.Tensor]) -> Any:
    """By position where there is one input, by name else: as people do."""
    return model(next(iter(inputs.values()))) if len(inputs) == 1 else model(**inputs)


def loss_of(result: Any) -> torch.Tensor:
    """A number to train on."""
    return (result if isinstance(result, torch.Tensor) else result.logits).float().pow(2).mean()


def drop(model: nn.Module, path: str) -> None:
    """Takes a layer out of the list that it is in."""
    parent, _, index = path.rpartition(".")
    del model.get_submodule(parent)[int(index)]  # type: ignore[operator]


def checkpoint(model: nn.Module, path: str) -> None:
    """Has a module's forward computed again in the backward pass."""
    from torch.utils.checkpoint import checkpoint as recomputed

    module = model.get_submodule(path)
    forward = module.forward
    module.forward = lambda *a, **k: recomputed(forward, *a, use_reentrant=False, **k)


def shard(model: nn.Module, options: argparse.Namespace) -> None:
    """As FSDP2 does, layer by layer, on a group of which nobody else is there."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=options.ranks)
    mesh = init_device_mesh(options.device, (options.ranks,))
    for path, module in list(model.named_modules()):
        if path.rpartition(".")[2].isdigit() and isinstance(
            model.get_submodule(path.rpartition(".")[0]), nn.ModuleList
        ):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)


def prepared(options: argparse.Namespace) -> tuple[nn.Module, torch.optim.Optimizer | None]:
    """The model as the options want it, and what trains it."""
    model = RUN[options.model].build()
    if options.no_cache:
        model.config.use_cache = False  # type: ignore[union-attr]
    for path in options.drop:
        drop(model, path)
    for path in options.checkpoint:
        checkpoint(model, path)
    model = model.to(getattr(torch, options.dtype))
    if options.quantize:  # on the host: the weights arrive packed
        from quantised import quantise

        quantise(model, options.quantize)
    model = model.to(options.device)
    if options.ranks:
        shard(model, options)
    model.train(options.train)
    if not options.train:
        return model, None
    trained = [p for p in model.parameters() if p.requires_grad]
    foreach = {"default": None, "yes": True, "no": False}[options.foreach]
    if options.optimizer == "adamw":
        return model, torch.optim.AdamW(trained, lr=1e-3, foreach=foreach)
    if options.optimizer == "adamw8bit":
        import bitsandbytes

        return model, bitsandbytes.optim.AdamW8bit(trained, lr=1e-3)
    momentum = 0.9 if options.optimizer == "momentum" else 0.0
    return model, torch.optim.SGD(trained, lr=1e-3, momentum=momentum, foreach=foreach)


def steps(
    options: argparse.Namespace, model: nn.Module, optimizer: torch.optim.Optimizer | None
) -> None:
    """As many as asked for of each batch size."""
    dtype = getattr(torch, options.dtype)
    batches = [int(b) for b in options.batch.split(",")]
    lengths = [int(s) for s in options.sequence.split(",")]
    lengths = lengths * len(batches) if len(lengths) == 1 else lengths
    for batch, length in zip(batches, lengths, strict=True):
        for _ in range(options.calls):
            inputs = {
                name: value.to(dtype if value.is_floating_point() else value.dtype)
                .to(options.device)
                for name, value in RUN[options.model].inputs(batch, length).items()
            }  # fmt: skip
            if optimizer is None:
                with torch.no_grad():
                    call(model, inputs)
                continue
            loss_of(call(model, inputs)).backward()
            optimizer.step()
            optimizer.zero_grad()
    del inputs


def main() -> None:
    """Builds, changes and runs the model."""
    options = parse()
    torch.manual_seed(0)
    steps(options, *prepared(options))


if __name__ == "__main__":
    main()
