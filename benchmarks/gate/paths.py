"""The hot paths and the analyses whose instructions are counted; one process, under callgrind.

    valgrind --tool=callgrind --instr-atstart=no ... python paths.py SHIM

Names of the counts are "PATH|own|UNITS", of which memtrace's own code counts, or "PATH|all|UNITS".
Where no memory changes, all that is added counts, torch's share as well: "PATH|all|UNITS" less
"PATH|without|UNITS", the same unrecorded.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
BENCHMARKS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS / "record"), str(BENCHMARKS.parent / "tests")]

import pyarrow as pa
import torch
from finalise.throughput import write_spool
from record.recording import HooksOn
from replay.speed import made_up, replay
from torch import nn
from transformers import DynamicCache

from memtrace import _core
from memtrace.analyse.peak import find_peak
from memtrace.attribute.in_place import attribute_again
from memtrace.finalise import finalise
from memtrace.trace import open_trace

CALLS = 5000  # so many that it does not matter when windows are written and caches fill
STEPS = 100
LAYERS = 12
DEPTHS = (10, 30, 60)
EVENTS = 60_000


class Counter:
    """Counts blocks by callgrind, under the names that are given."""

    def __init__(self, shim: str) -> None:
        self._shim = ctypes.CDLL(shim)

    @contextmanager
    def count(self, name: str) -> Iterator[None]:
        gc.collect()
        gc.disable()
        self._shim.count_begin()
        yield
        self._shim.count_end(name.encode())
        gc.enable()


def at_depth(depth: int, call: Callable[[], object]) -> None:
    """The call, with so many more Python frames around it."""
    if depth > 0:
        at_depth(depth - 1, call)
    else:
        call()


class Pass(nn.Module):
    """A module that does nothing: what is left is the call."""

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        return tensors[0]


class Around(nn.Module):
    """A root whose calls of an inner module are counted."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Pass()

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        for _ in range(CALLS):
            self.inner(given)
        return given


def allocate() -> None:
    """An allocation and a free, in one operator each time."""
    for _ in range(CALLS):
        torch.empty(64)


def view(given: torch.Tensor) -> None:
    """An operator that only makes a view, where autograd is off."""
    with torch.no_grad():
        for _ in range(CALLS):
            given.view(-1)


def add(given: torch.Tensor) -> None:
    """An operator in which no memory changes."""
    with torch.no_grad():
        for _ in range(CALLS):
            given.add_(given)


def training() -> Callable[[], None]:
    """Steps of a small network."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
    given = torch.ones(4, 32)

    def steps() -> None:
        for _ in range(STEPS):
            optimizer.zero_grad()
            model(given).sum().backward()
            optimizer.step()

    return steps


def cache_of(layers: int) -> object:
    """The KV cache that transformers gives a model which decodes."""
    cache = DynamicCache()
    for layer in range(layers):
        cache.update(torch.ones(1, 2, 8, 16), torch.ones(1, 2, 8, 16), layer)
    return cache


Using = Callable[[], AbstractContextManager[object]]


def hot_paths() -> Iterator[tuple[str, int, Callable[[], object], Using]]:
    """What runs in the program: name, units, the code, how it is recorded."""
    # What another process does in between would differ from run to run.
    alone = partial(HooksOn, beside=False)
    plain = partial(alone, operators=False, stacks=False)
    operators = partial(alone, stacks=False)
    yield "an allocation and its free", CALLS, allocate, plain
    yield "the same with operators", CALLS, allocate, operators
    for depth in DEPTHS:
        yield (
            f"the same with stacks, depth {depth}",
            CALLS,
            lambda d=depth: at_depth(d, allocate),
            alone,
        )
    given = [torch.ones(2, 128) for _ in range(3)]
    root, around = Pass(), Around()
    steps = lambda: [root(*given) for _ in range(CALLS)]  # noqa: E731
    yield "a root call with 3 tensors", CALLS, steps, alone
    cache = cache_of(LAYERS)
    decoding = lambda: [root(given[0], cache) for _ in range(STEPS)]  # noqa: E731
    yield f"a root call with a cache of {LAYERS} layers", STEPS, decoding, alone
    yield "a module's call inside a model", CALLS, lambda: around(given[0]), alone
    yield "a step of training", STEPS, training(), alone
    paused = partial(alone, paused=True)
    yield "an allocation, in a pause", CALLS, allocate, paused
    yield "a step of training, in a pause", STEPS, training(), paused


def without_memory() -> Iterator[tuple[str, Callable[[], object]]]:
    """Operators in which no memory changes."""
    given = torch.ones(2, 128)
    yield "an operator without memory", lambda: add(given)
    yield "a view, autograd off", lambda: view(given)


def count_added(counter: Counter) -> None:
    for name, run in without_memory():
        for of, using in (("without", nullcontext), ("all", partial(HooksOn, beside=False))):
            with using():
                run()
                with counter.count(f"{name}|{of}|{CALLS}"):
                    run()


def count_hot_paths(counter: Counter) -> None:
    for name, units, run, using in hot_paths():
        with using():
            run()  # first sights
            run()
            with counter.count(f"{name}|own|{units}"):
                run()


def count_analyses(counter: Counter, folder: Path) -> None:
    """What works on a trace, per event."""
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    trace_dir = folder / "t.memtrace"
    write_spool(trace_dir, EVENTS)
    (spool,) = (trace_dir / "spool").iterdir()
    key = spool.name.partition("=")[2]
    reader = _core.SpoolReader(spool)
    conversion = _core.Conversion(reader, batch_rows=131_072, part_rows=131_072)
    with counter.count(f"a spool to columns|all|{EVENTS}"):
        while not conversion.finished:
            conversion.advance()
    finalise(trace_dir)
    attribute_again(trace_dir, key)  # imports, first sights
    with counter.count(f"attribution|all|{EVENTS}"):
        attribute_again(trace_dir, key)
    find_peak(open_trace(trace_dir))
    with counter.count(f"the peak and what was live|all|{EVENTS}"):
        find_peak(open_trace(trace_dir))
    requests = made_up(EVENTS, 2_000)
    with counter.count(f"the allocator, replayed|all|{EVENTS}"):
        replay(requests, "")


def main() -> None:
    torch.set_num_threads(1)
    counter = Counter(sys.argv[1])
    count_hot_paths(counter)
    count_added(counter)
    with tempfile.TemporaryDirectory() as folder:
        count_analyses(counter, Path(folder))


if __name__ == "__main__":
    main()
