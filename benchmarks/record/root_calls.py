"""What steps cost: per call of a module inside a model, and per call of a model by the program.

    python benchmarks/record/root_calls.py [--rounds 30] [--instructions]

The same calls with nothing installed, with memtrace's hook alone on (no operators, no allocators;
no look at weights) and with torch's own hooks on the root instance, which we could have used: a
forward pre-hook and a forward hook that do nothing. The ways take turns in every round; thread CPU
time, median and spread. `--instructions` counts with callgrind, which needs valgrind and does not
depend on the machine's load.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent)]

import torch
from recording import HooksOn
from torch import nn

INNER = 1000


class Pass(nn.Module):
    """A module that does nothing: what is left is the call."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return args[0] if args else None


class Many(nn.Module):
    """A model of INNER calls."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Pass()

    def forward(self) -> None:
        inner = self.inner
        for _ in range(INNER):
            inner()


@contextmanager
def torch_hooks(model: nn.Module) -> Iterator[None]:
    """The rival: hooks on the root instance alone."""
    handles = [
        model.register_forward_pre_hook(lambda module, args: None),
        model.register_forward_hook(lambda module, args, result: None),
    ]
    yield
    for handle in handles:
        handle.remove()


@contextmanager
def nothing(model: nn.Module) -> Iterator[None]:
    yield


@contextmanager
def memtrace_hook(model: nn.Module) -> Iterator[None]:
    with HooksOn(operators=False, cpu=False):
        yield


WAYS = {"nothing": nothing, "memtrace": memtrace_hook, "hooks of torch": torch_hooks}


def cases() -> dict[str, tuple[nn.Module, Callable[[], object], int, int]]:
    """By name: the model, a call, how often, and the module calls in each."""
    model, many = Pass(), Many()
    tensors = [torch.ones(2, 128) for _ in range(3)]
    found: dict[str, tuple[nn.Module, Callable[[], object], int, int]] = {
        "an inner call": (many, many, 20, INNER),
        "a root call, 3 tensors": (model, lambda: model(*tensors), 2000, 1),
    }
    try:
        from transformers import DynamicCache
    except ImportError:
        return found
    cache = DynamicCache()
    for layer in range(12):
        cache.update(torch.ones(1, 12, 8, 64), torch.ones(1, 12, 8, 64), layer)
    call = lambda: model(tensors[0], past_key_values=cache)  # noqa: E731
    found["a root call, DynamicCache of 12 layers"] = (model, call, 1000, 1)
    return found


def measure(rounds: int) -> None:
    for name, (model, call, count, calls) in cases().items():
        times: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(rounds):
            for way, using in WAYS.items():
                with using(model):
                    call()
                    begun = time.thread_time_ns()
                    for _ in range(count):
                        call()
                    times[way].append((time.thread_time_ns() - begun) / count / calls)
        print(f"{name}:")
        base = statistics.median(times["nothing"])
        for way, values in times.items():
            middle = statistics.median(values)
            low, *_, high = statistics.quantiles(values, n=10)
            print(f"  {way:<16} {middle:9.1f} ns ({low:.1f} to {high:.1f})  {middle - base:+9.1f}")


def run_one(case: str, way: str, count: int) -> None:
    model, call, _, _ = cases()[case]
    with WAYS[way](model):
        for _ in range(count):
            call()


def instructions(case: str, way: str, count: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out",
             sys.executable, __file__, "--one", case, way, str(count)],
            env={**os.environ, "PYTHONHASHSEED": "0"}, capture_output=True, text=True, check=True,
        )  # fmt: skip
    (found,) = re.findall(r"Collected : (\d+)", done.stderr)
    return int(found)


def measure_instructions() -> None:
    for name, (_, _, count, calls) in cases().items():
        print(f"{name}:")
        few, many = 1, 1 + count // 10
        for way in WAYS:
            extra = instructions(name, way, many) - instructions(name, way, few)
            print(f"  {way:<16} {extra / (many - few) / calls:9.0f} instructions")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--instructions", action="store_true")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        run_one(options.one[0], options.one[1], int(options.one[2]))
    elif options.instructions:
        measure_instructions()
    else:
        measure(options.rounds)


if __name__ == "__main__":
    main()
