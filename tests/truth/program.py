"""Runs one model and writes down, from the objects themselves, what each byte is.

    python program.py MODEL DEVICE TRUTH.json

Inference (under no_grad, with the KV cache where the model has one), then three training steps
(saved tensors are seen through saved_tensors_hooks), then one under anomaly mode (lines.py). Truth
is taken at named instants, each the start of a stage of that name:
{"instants": {instant: {category: [[address, storage bytes], ...]}}, "names": {instant: {address:
name}} of weights, gradients and optimizer state, "hidden": [[address, storage bytes], ...] all the
time, "nodes": lines.py's}.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from torch import nn

import memtrace
from truth.lines import step_with_lines
from truth.models import CASES

Storages = dict[int, int]  # address -> bytes

#: In their order of precedence: a storage counts for the first that it is in.
ORDER = (
    "weight", "buffer", "gradient", "optimizer_state", "kv_cache", "input", "output", "activation",
)  # fmt: skip


def storages(thing: Any, found: Storages | None = None) -> Storages:
    """Those of all tensors in a nest of lists, dicts and model outputs."""
    found = {} if found is None else found
    if isinstance(thing, torch.Tensor):
        if thing.layout != torch.strided:
            return storages([thing._indices(), thing._values()], found)
        storage = thing.untyped_storage()
        if storage.nbytes():
            found[storage.data_ptr()] = storage.nbytes()
    elif isinstance(thing, dict):
        for value in thing.values():
            storages(value, found)
    elif isinstance(thing, (list, tuple)):
        for value in thing:
            storages(value, found)
    return found


def cache_in(result: Any) -> tuple[str, Any]:
    """The field of a model's output that is a cache, and the cache; ("", None): none."""
    cache_class = getattr(sys.modules.get("transformers.cache_utils"), "Cache", ())
    for name, value in {} if isinstance(result, torch.Tensor) else dict(result).items():
        if isinstance(value, cache_class):
            return name, value
    return "", None


def cached(cache: Any) -> list[Any]:
    """The tensors of a transformers cache, and of those inside it."""
    found: list[Any] = []
    waiting = list(getattr(cache, "__dict__", {}).values())
    while waiting:
        item = waiting.pop()
        if isinstance(item, torch.Tensor):
            found.append(item)
        elif isinstance(item, (list, tuple)):
            waiting += item
        elif isinstance(item, dict):
            waiting += item.values()
        elif type(item).__module__ == "transformers.cache_utils":
            found += cached(item)
    return found


class Truth:
    """What is known of the model at hand, and the instants it was asked at."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
        self.model = model
        self.optimizer = optimizer
        self.saved: Storages = {}
        self.instants: dict[str, dict[str, list[tuple[int, int]]]] = {}
        self.names: dict[str, dict[int, str]] = {}

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        """For saved_tensors_hooks."""
        storages(tensor, self.saved)
        return tensor

    def take(self, name: str, *, inputs: Any = (), outputs: Any = (), cache: Any = None) -> None:
        """At this instant; `inputs` and `outputs` are those still alive."""
        parameters = list(self.model.parameters())
        whole = {
            "weight": storages(parameters),
            "buffer": storages(list(self.model.buffers())),
            "gradient": storages([p.grad for p in parameters if p.grad is not None]),
            "optimizer_state": storages(
                [list(state.values()) for state in self.optimizer.state.values()]
                if self.optimizer
                else []
            ),
            "kv_cache": storages(cached(cache)),
            "input": storages(inputs),
            "output": storages(outputs),
            "activation": self.saved,
        }
        known: set[int] = set()
        instant: dict[str, list[tuple[int, int]]] = {}
        for category in ORDER:
            instant[category] = [item for item in whole[category].items() if item[0] not in known]
            known.update(whole[category])
        del whole
        self.instants[name] = instant
        self.names[name] = names(self)
        memtrace.stage(name)


def call(model: nn.Module, inputs: dict[str, torch.Tensor]) -> Any:
    """By position where there is one input, by name else: as people do."""
    return model(next(iter(inputs.values()))) if len(inputs) == 1 else model(**inputs)


def loss_of(result: Any) -> torch.Tensor:
    """A number to train on."""
    return (result if isinstance(result, torch.Tensor) else result.logits).float().pow(2).mean()


def train(truth: Truth, make_inputs: Any, device: str) -> None:
    """Three steps; the second one accumulates into the first one's gradients."""
    optimizer = truth.optimizer
    assert optimizer is not None
    truth.model.train()
    for step in range(3):
        inputs = {name: value.to(device) for name, value in make_inputs().items()}
        truth.saved = {}
        with torch.autograd.graph.saved_tensors_hooks(truth.pack, lambda tensor: tensor):
            result = call(truth.model, inputs)
            loss = loss_of(result)
        shown = result if isinstance(result, torch.Tensor) else dict(result)
        _, cache = cache_in(result)
        truth.take(f"forward_{step}", inputs=inputs, outputs=shown, cache=cache)
        loss.backward()
        truth.saved = {}
        del result, loss
        truth.take(f"backward_{step}", inputs=inputs, outputs=shown, cache=cache)
        del shown, cache
        if step == 0:
            continue
        optimizer.step()
        truth.take(f"optimizer_{step}", inputs=inputs)
        optimizer.zero_grad(set_to_none=step != 1)
        truth.take(f"zeroed_{step}", inputs=inputs)


def infer(truth: Truth, make_inputs: Any, device: str) -> None:
    """Three calls, the later ones with the cache of the earlier."""
    truth.model.eval()
    name, cache = "", None
    with torch.no_grad():
        for step in range(3):
            inputs = {name: value.to(device) for name, value in make_inputs().items()}
            result = call(truth.model, {**inputs, name: cache} if name else inputs)
            name, cache = cache_in(result)
            shown = result if isinstance(result, torch.Tensor) else dict(result)
            truth.take(f"call_{step}", inputs=inputs, outputs=shown, cache=cache)
            del result, shown


def hide(device: str) -> tuple[list[Any], Storages]:
    """Tensors that nothing tells of, in a list, a dict and a closure; and their storages."""
    in_list = [torch.ones(1000, device=device)]
    in_dict = {"kept": torch.ones(2000, device=device)}
    enclosed = torch.ones(3000, device=device)
    kept = [in_list, in_dict, lambda: enclosed]
    return kept, storages([in_list, in_dict, enclosed])


def names(truth: Truth) -> dict[int, str]:
    """By address, what weights, their gradients and the optimizer's state are called."""
    found: dict[int, str] = {}
    for name, parameter in truth.model.named_parameters():
        found[next(iter(storages(parameter)))] = name
        if parameter.grad is not None:
            found[next(iter(storages(parameter.grad)))] = f"grad of {name}"
        state = truth.optimizer.state.get(parameter, {}) if truth.optimizer else {}
        for key, tensor in state.items():
            found[next(iter(storages(tensor)))] = f"{key} of {name}"
    return found


def main() -> None:
    name, device, out = sys.argv[1:]
    torch.manual_seed(0)
    case = CASES[name]
    model = case.build().to(device)
    kept, hidden = hide(device)
    memtrace.stage("inference")
    inference = Truth(model, None)
    infer(inference, case.inputs, device)
    trained = [p for p in model.parameters() if p.requires_grad]
    memtrace.stage("training")
    training = Truth(model, torch.optim.AdamW(trained, lr=1e-3))
    train(training, case.inputs, device)
    memtrace.stage("lines")
    inputs = {key: value.to(device) for key, value in case.inputs().items()}
    nodes = step_with_lines(model, lambda: loss_of(call(model, inputs)))
    memtrace.stage("end")
    facts = {
        "instants": inference.instants | training.instants,
        "names": inference.names | training.names,
        "hidden": list(hidden.items()),
        "nodes": nodes,
    }
    with open(out, "w") as file:
        json.dump(facts, file)
    del kept


if __name__ == "__main__":
    main()
