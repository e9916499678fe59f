"""Programs in which it is hard to know what a tensor is, and what each one knows to be true.

    python -m truth.identity CASE DEVICE TRUTH.json

A case says at named instants what its objects hold: {"instants": {instant: {category: [[address,
storage bytes], ...]}}, "names": {instant: {address: name}}}. An instant is the birth of a tensor
with that label: unlike a stage's, it makes nobody look at what models hold.
"""

from __future__ import annotations

import copy
import json
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import memtrace
from truth.program import ORDER, storages

Case = Callable[["Truth", str], None]
CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    """One of CASES, under its own name."""
    CASES[function.__name__] = function
    return function


class Truth:
    """What a case has said so far."""

    def __init__(self) -> None:
        self.instants: dict[str, dict[str, list[tuple[int, int]]]] = {}
        self.names: dict[str, dict[int, str]] = {}
        self.marks: list[torch.Tensor] = []

    def say(self, instant: str, **things: Any) -> None:
        """By category, what is alive now; of two that fit, the earlier in ORDER."""
        known: set[int] = set()
        said = self.instants[instant] = {}
        for category in (*ORDER, "temporary", "other"):
            if category in things:
                found = storages(things[category])
                said[category] = [item for item in found.items() if item[0] not in known]
                known.update(found)
        self.marks.append(memtrace.label(torch.ones(1), f"instant {instant}"))

    def named(self, instant: str, named: Iterable[tuple[str, torch.Tensor]]) -> None:
        """What some of them are called."""
        names = self.names.setdefault(instant, {})
        for name, tensor in named:
            names.update(dict.fromkeys(storages(tensor), name))


def held(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> dict[str, Any]:
    """All that the objects hold, by category."""
    parameters = list(model.parameters())
    states = list(optimizer.state.values()) if optimizer else []
    return {
        "weight": parameters,
        "buffer": list(model.buffers()),
        "gradient": [p.grad for p in parameters if p.grad is not None],
        "optimizer_state": [list(state.values()) for state in states],
    }


class Net(nn.Module):
    """Two layers and a buffer."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.norm = nn.BatchNorm1d(width)
        self.second = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.norm(self.first(x))))


def batch(device: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(8, 64, device=device, dtype=dtype)


@case
def other_dtypes_between_calls(truth: Truth, device: str) -> None:
    model = Net().to(device).eval()
    with torch.no_grad():
        for dtype in (torch.float32, torch.float16, torch.float64, torch.bfloat16, torch.float32):
            model.to(dtype)
            model(batch(device, dtype))
            instant = f"{dtype}_{len(truth.instants)}"
            truth.say(instant, weight=list(model.parameters()), buffer=list(model.buffers()))
            truth.named(instant, model.named_parameters())


@case
def data_exchanged(truth: Truth, device: str) -> None:
    model = Net().to(device).eval()
    with torch.no_grad():
        for step in range(5):
            for parameter in model.parameters():
                parameter.data = torch.ones_like(parameter)
            model(batch(device))
            truth.say(f"call_{step}", weight=list(model.parameters()))
            truth.named(f"call_{step}", model.named_parameters())


@case
def parameters_replaced(truth: Truth, device: str) -> None:
    model = Net().to(device)
    for step in range(5):
        model.second.weight = nn.Parameter(torch.ones(64, 64, device=device))
        model.norm.running_mean = torch.zeros(64, device=device)
        model(batch(device)).sum().backward()
        truth.say(f"call_{step}", **held(model))
        truth.named(f"call_{step}", model.named_parameters())


@case
def average_of_a_model(truth: Truth, device: str) -> None:
    model = Net().to(device)
    called, never_called = copy.deepcopy(model), copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(3):
        optimizer.zero_grad()
        model(batch(device)).sum().backward()
        optimizer.step()
        with torch.no_grad():
            called(batch(device))
            for average in (called, never_called):
                for mean, now in zip(average.parameters(), model.parameters(), strict=True):
                    mean.lerp_(now, 0.1)
        both = held(model, optimizer)
        both["weight"] += list(called.parameters())
        both["buffer"] += list(called.buffers())
        # Nothing tells that these are a model's: no call, no optimizer.
        truth.say(f"step_{step}", **both, other=list(never_called.parameters()))


@case
def assigned_state(truth: Truth, device: str) -> None:
    model = Net().to(device).eval()
    with torch.no_grad():
        for step in range(5):
            state = {name: t.detach().clone() for name, t in model.state_dict().items()}
            model.load_state_dict(state, assign=True)
            del state
            model(batch(device))
            truth.say(f"call_{step}", weight=list(model.parameters()), buffer=list(model.buffers()))


@case
def born_on_meta(truth: Truth, device: str) -> None:
    state = Net().to(device).state_dict()
    with torch.device("meta"):
        model = Net()
    model.to_empty(device=device).load_state_dict(state)
    truth.say("loaded", other=list(state.values()))
    del state
    model(batch(device))
    truth.say("called", **held(model))
    truth.named("called", model.named_parameters())


@case
def mapped_file(truth: Truth, device: str) -> None:
    try:
        from safetensors.torch import load_file, save_file
    except ImportError:
        load_file = save_file = None
    made = Net().state_dict()
    if save_file:
        save_file(made, "state.safetensors")
        state = load_file("state.safetensors")
    else:
        torch.save(made, "state.pt")
        state = torch.load("state.pt", mmap=True)
    model = Net()
    model.load_state_dict(state, assign=True)
    del state, made
    model.eval()(batch("cpu"))
    truth.say("called", weight=list(model.parameters()), buffer=list(model.buffers()))


@case
def functional(truth: Truth, device: str) -> None:
    model = Net().to(device).eval()
    model(batch(device))  # else nobody sees its own parameters in their places
    model(batch(device))
    for step in range(4):
        mine = {name: p.detach().clone() for name, p in model.named_parameters()}
        result = torch.func.functional_call(model, mine, (batch(device),))
        truth.say(f"call_{step}", weight=[mine, list(model.parameters())], output=result)
        del result

    def loss(parameters: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(model, parameters, (x,)).pow(2).mean()

    parameters = {name: p.detach() for name, p in model.named_parameters()}
    del mine
    gradients = torch.func.grad(loss)(parameters, batch(device))
    truth.say("grad", weight=list(model.parameters()), other=gradients)
    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, batch(device)[:, None])
    truth.say("vmap", weight=list(model.parameters()), other=[gradients, each])


@case
def accumulated(truth: Truth, device: str) -> None:
    model = Net().to(device)
    optimizer = torch.optim.Adam(model.parameters())
    for step in range(4):
        for part in range(2):
            model(batch(device)).sum().backward()
            truth.say(f"backward_{step}_{part}", **held(model, optimizer))
        optimizer.step()
        optimizer.zero_grad(set_to_none=step % 2 == 0)
        truth.say(f"step_{step}", **held(model, optimizer))


@case
def autocast(truth: Truth, device: str) -> None:
    model = Net().to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    scaler = torch.amp.GradScaler(device, enabled=device == "cuda")
    saved: dict[int, int] = {}
    for step in range(3):
        saved.clear()
        x = batch(device)
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: (storages(tensor, saved), tensor)[1], lambda tensor: tensor
        )
        with hooks, torch.autocast(device, dtype=torch.bfloat16):
            result = model(x)
            loss = result.float().pow(2).mean()
        known = storages([*model.parameters(), *model.buffers(), x, result])
        activations = {at: size for at, size in saved.items() if at not in known}
        truth.say(f"forward_{step}", **held(model, optimizer), input=x, output=result)
        truth.instants[f"forward_{step}"]["activation"] = list(activations.items())
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        del loss, result
        truth.say(f"step_{step}", **held(model, optimizer), activation=[])
        optimizer.zero_grad()


@case
def autocast_inference(truth: Truth, device: str) -> None:
    model = Net().to(device).eval()
    results = []
    with torch.no_grad(), torch.autocast(device, dtype=torch.bfloat16):
        for step in range(3):
            results.append(model(batch(device)))
            truth.say(f"call_{step}", **held(model), output=results)
    truth.say("left", **held(model), output=results)


class Block(nn.Module):
    """Recomputed in the backward."""

    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64))
        self.reentrant = reentrant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(self.inner, x, use_reentrant=self.reentrant)


@case
def checkpointed(truth: Truth, device: str) -> None:
    for reentrant in (False, True):
        model = nn.Sequential(
            nn.Linear(64, 64), *(Block(reentrant=reentrant) for _ in range(3))
        ).to(device)
        optimizer = torch.optim.AdamW(model.parameters())
        inside: list[torch.Tensor] = []
        for step in range(3):
            result = model(batch(device))
            truth.say(f"{reentrant}_forward_{step}", **held(model, optimizer), output=result)
            result.sum().backward()
            del result
            truth.say(f"{reentrant}_backward_{step}", **held(model, optimizer), activation=[])
            optimizer.step()
            optimizer.zero_grad()
        del model, optimizer, inside


@case
def compiled_optimizer(truth: Truth, device: str) -> None:
    model = Net().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    step_compiled = torch.compile(optimizer.step, backend="eager")
    for step in range(3):
        model(batch(device)).sum().backward()
        step_compiled()
        truth.say(f"step_{step}", **held(model, optimizer))
        optimizer.zero_grad()


@case
def capturable_optimizer(truth: Truth, device: str) -> None:
    model = Net().to(device)
    optimizer = torch.optim.Adam(model.parameters(), capturable=True, fused=True)
    for step in range(3):
        model(batch(device)).sum().backward()
        optimizer.step()
        truth.say(f"step_{step}", **held(model, optimizer))
        optimizer.zero_grad()


@case
def compiled_autograd(truth: Truth, device: str) -> None:
    model = Net().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
        for step in range(3):
            model(batch(device)).sum().backward()
            optimizer.step()
            truth.say(f"step_{step}", **held(model))
            optimizer.zero_grad()


@case
def hogwild(truth: Truth, device: str) -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    barrier = threading.Barrier(2)

    def work() -> None:
        for _ in range(10):
            barrier.wait()
            model(batch(device)).sum().backward()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    truth.say("backward", **held(model, optimizer), activation=[])
    optimizer.step()
    truth.say("step", **held(model, optimizer), activation=[])


@case
def in_a_thread(truth: Truth, device: str) -> None:
    def work() -> None:
        model = Net().to(device)
        optimizer = torch.optim.AdamW(model.parameters())
        for step in range(3):
            x = batch(device)
            result = model(x)
            result.sum().backward()
            optimizer.step()
            truth.say(f"step_{step}", **held(model, optimizer), input=x, output=result)
            optimizer.zero_grad()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


@case
def adversaries(truth: Truth, device: str) -> None:
    generator, critic = Net().to(device), Net().to(device)
    ours = torch.optim.Adam(generator.parameters())
    theirs = torch.optim.Adam(critic.parameters())
    for step in range(3):
        noise, real = batch(device), batch(device)
        made = generator(noise)
        verdict_real, verdict_made = critic(real), critic(made.detach())
        (verdict_made.mean() - verdict_real.mean()).backward()
        both = held(generator, ours)
        for category, things in held(critic, theirs).items():
            both[category] += things
        # What one model gives and another one gets is an input, which comes first.
        truth.say(
            f"critic_{step}", **both, input=[noise, real, made], output=[verdict_real, verdict_made]
        )
        theirs.step()
        theirs.zero_grad()
        critic(made).mean().backward()
        ours.step()
        both = held(generator, ours)
        for category, things in held(critic, theirs).items():
            both[category] += things
        truth.say(f"generator_{step}", **both)
        ours.zero_grad()
        theirs.zero_grad()


class Trainer(nn.Module):
    """Whose call does the backward as well."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        loss = self.net(x).pow(2).mean()
        loss.backward()
        return loss.detach()


@case
def backward_in_forward(truth: Truth, device: str) -> None:
    model = Trainer().to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    for step in range(3):
        x = batch(device)
        loss = model(x)
        optimizer.step()
        truth.say(f"step_{step}", **held(model, optimizer), input=x, output=loss, activation=[])
        optimizer.zero_grad()


@case
def graph_retained(truth: Truth, device: str) -> None:
    model = Net().to(device)
    for step in range(2):
        saved: dict[int, int] = {}
        x = batch(device)
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, saved=saved: (storages(tensor, saved), tensor)[1], lambda tensor: tensor
        )
        with hooks:
            result = model(x)
        loss = result.sum()
        known = storages([*model.parameters(), *model.buffers(), x, result])
        activations = [item for item in saved.items() if item[0] not in known]
        for again in range(2):
            loss.backward(retain_graph=True)
            truth.say(f"backward_{step}_{again}", **held(model), input=x, output=result)
            truth.instants[f"backward_{step}_{again}"]["activation"] = activations
        loss.backward()
        truth.say(f"freed_{step}", **held(model), input=x, output=result, activation=[])


class Fails(nn.Module):
    """Raises in the middle, with what it made so far kept by the exception."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        middle = self.net(x)
        if middle.numel():
            raise ValueError("in the middle")
        return middle


@case
def exception_in_forward(truth: Truth, device: str) -> None:
    model = Fails().to(device)
    for step in range(3):
        x = batch(device)
        try:
            model(x)
        except ValueError:
            truth.say(f"caught_{step}", **held(model), input=x, output=[])
        truth.say(f"after_{step}", **held(model), input=x, output=[], activation=[])
    result = model.net(x)
    truth.say("whole", **held(model), input=x, output=result)


@case
def results_kept(truth: Truth, device: str) -> None:
    model = Net().to(device).eval()
    hidden: list[torch.Tensor] = []
    model.norm.register_forward_hook(lambda module, args, result: hidden.append(result))
    results = []
    with torch.no_grad():
        for step in range(4):
            results.append(model(batch(device)))
            truth.say(f"call_{step}", weight=list(model.parameters()), output=results, other=hidden)


@case
def before_the_recording(truth: Truth, device: str) -> None:
    """Run on its own, not by `memtrace run`."""
    model = Net().to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    model(batch(device)).sum().backward()
    optimizer.step()
    with memtrace.record("t.memtrace"):
        for step in range(2):
            model(batch(device)).sum().backward()
            optimizer.step()
            truth.say(f"step_{step}", **held(model, optimizer))
            truth.named(f"step_{step}", model.named_parameters())
        optimizer.zero_grad()
        memtrace.stage("zeroed")  # a look tells that what is older than the recording has gone
        truth.say("zeroed", **held(model, optimizer))


def fake_group() -> None:
    """A process group of two, of which the other one is not there."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)


@case
def data_parallel(truth: Truth, device: str) -> None:
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    train_replicas(truth, device, lambda model: None)


@case
def data_parallel_of_two(truth: Truth, device: str) -> None:
    fake_group()

    # DDP's own hook wants what a fake group's all-reduce has not: a result. It refuses annotations.
    def reduced(_, bucket):
        torch.distributed.all_reduce(bucket.buffer())
        done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    train_replicas(truth, device, lambda model: model.register_comm_hook(None, reduced))


def train_replicas(truth: Truth, device: str, prepare: Callable[[Any], None]) -> None:
    """With and without gradients that are views of DDP's buckets."""
    for as_views in (True, False):
        model = nn.parallel.DistributedDataParallel(
            Net().to(device), gradient_as_bucket_view=as_views
        )
        prepare(model)
        optimizer = torch.optim.AdamW(model.parameters())
        for step in range(3):
            model(batch(device)).sum().backward()
            truth.say(f"{as_views}_backward_{step}", **held(model, optimizer))
            truth.named(f"{as_views}_backward_{step}", model.named_parameters())
            optimizer.step()
            optimizer.zero_grad()
            truth.say(f"{as_views}_step_{step}", weight=list(model.parameters()))
        del model, optimizer


@case
def fully_sharded(truth: Truth, device: str) -> None:
    from torch.distributed.fsdp import fully_shard

    fake_group()
    model = Net()
    model.norm = nn.LayerNorm(64)
    model.to(device)
    mesh = torch.distributed.init_device_mesh(device, (2,))
    for part in (model.first, model.second, model):
        fully_shard(part, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters())

    def local(thing: Any) -> Any:
        return getattr(thing, "_local_tensor", thing)

    def shards() -> dict[str, Any]:
        return {
            "weight": [local(p) for p in model.parameters()],
            "gradient": [local(p.grad) for p in model.parameters() if p.grad is not None],
            "optimizer_state": [
                [local(t) for t in state.values()] for state in optimizer.state.values()
            ],
        }

    for step in range(3):
        model(batch(device)).sum().backward()
        truth.say(f"backward_{step}", **shards())
        optimizer.step()
        truth.say(f"step_{step}", **shards())
        optimizer.zero_grad()


def main() -> None:
    name, device, out = sys.argv[1:]
    torch.manual_seed(0)
    truth = Truth()
    CASES[name](truth, device)
    Path(out).write_text(json.dumps({"instants": truth.instants, "names": truth.names}))


if __name__ == "__main__":
    main()
