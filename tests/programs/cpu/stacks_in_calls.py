"""Allocates inside and beside calls of modules, and writes down the stack of each allocation.

    python stacks_in_calls.py FOLDER

Each allocation of ours has a size of its own, and is made on the line that takes the true stack.
That of the first recording goes to FOLDER/0.json beside FOLDER/0.memtrace, and so on: {bytes:
stack}, innermost first, [function, file, line, [class, path] of the module called or null].
"""

from __future__ import annotations

import functools
import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

import memtrace

FOLDER = Path(sys.argv[1])
PLUMBING = nn.modules.module.__file__
LEAST_BYTES, STEP_BYTES = 1 << 16, 64  # more than anything else that is allocated here

Frames = list[tuple[str, str, int, tuple[str, str] | None]]
lock = threading.Lock()
sizes = iter(range(LEAST_BYTES, 1 << 30, STEP_BYTES))
recordings: list[memtrace.record] = []
true: list[dict[int, Frames]] = []
recorded = False
paths: dict[int, str] = {}


def stack() -> Frames:
    """Of the caller, without the frames that a module's call needs."""
    rows: Frames = []
    called_here = False
    frame = sys._getframe(1)
    while frame:
        code = frame.f_code
        if code.co_filename != PLUMBING:
            name = getattr(code, "co_qualname", code.co_name)
            rows.append((name, code.co_filename, frame.f_lineno, None))
            called_here = True
        elif code is nn.Module._wrapped_call_impl.__code__ and called_here:
            module = frame.f_locals["self"]
            rows[-1] = (*rows[-1][:3], (type(module).__name__, paths[id(module)]))
            called_here = False
        frame = frame.f_back
    return rows


def size_of(frames: Frames) -> int:
    with lock:
        size = next(sizes)
        if recorded:
            true[-1][size] = frames
    return size


def new() -> None:
    """One line allocates for all, so that stacks differ in the frames around alone."""
    torch.empty(size_of(stack()), dtype=torch.uint8)


def start() -> None:
    global recorded
    recordings.append(memtrace.record(FOLDER / f"{len(true)}.memtrace"))
    recordings[-1].start()
    true.append({})
    recorded = True


def stop() -> None:
    global recorded
    recorded = False
    recordings[-1].stop()


def pause() -> None:
    global recorded
    recorded = False
    memtrace.pause()


def resume() -> None:
    global recorded
    memtrace.resume()
    recorded = True


Work = Callable[["Does"], Any]


class Does(nn.Module):
    """Does what it is called with."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        # By C, from any frame, which goes on afterwards; that of _wrapped_call_impl does not.
        self.call_here = functools.partial(self._call_impl)

    def forward(self, work: Work) -> Any:
        new()
        done = work(self)
        new()
        return done


class Scale(nn.Module):
    """A call of it inside a backward pass is what its hooks make."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        new()
        return x * self.weight


def alone(_: Does) -> None:
    new()


def lines(of: Does) -> None:
    """Each call of a part comes from a line of its own."""
    part = of.parts[0]
    new()
    part(alone)
    new()
    new()
    part(alone)
    part.call_here(alone)
    new()
    new()
    part.call_here(inner_lines)
    new()
    new()


def inner_lines(of: Does) -> None:
    of.call_here(alone)
    new()
    of(alone)
    new()


def recursion(depth: int) -> Work:
    def work(of: Does) -> None:
        new()
        if depth > 1:
            of.call_here(recursion(depth - 1))
            new()
            of(recursion(depth - 1)) if depth % 25 == 0 else None
        new()

    return work


def nested(depth: int) -> Work:
    def work(of: Does) -> None:
        new()
        if depth > 1:
            of(nested(depth - 1))
            new()
        new()

    return work


def fail(_: Does) -> None:
    new()
    raise KeyError


def errors(of: Does) -> None:
    part = of.parts[0]
    for call in (part, part.call_here):
        try:
            call(fail)
        except KeyError:
            new()
            new()
        new()
        try:
            call(lambda inside: inside.call_here(fail))
        except KeyError:
            new()
        new()


def steps(part: nn.Module) -> Iterator[None]:
    part.call_here(alone)
    new()
    yield
    new()
    part(alone)
    new()
    yield
    part.call_here(alone)
    new()
    new()


def generators(of: Does) -> None:
    first, second = steps(of.parts[0]), steps(of.parts[0])
    next(first)
    next(second)
    of.parts[1].call_here(lambda _: next(first))
    new()
    of.parts[1](lambda _: next(second))
    new()
    of.parts[1].call_here(lambda _: next(first, None))
    next(second, None)
    new()


def threads(of: Does) -> None:
    """One is in a call while the call that began it returns."""
    part, other = of.parts[0], of.parts[1]
    inside, go_on = threading.Event(), threading.Event()

    def wait(_: Does) -> None:
        new()
        inside.set()
        go_on.wait()
        new()

    def run() -> None:
        new()
        other.call_here(wait)
        new()
        new()
        other(lines)
        new()

    def begin(_: Does) -> None:
        thread.start()
        inside.wait()
        new()

    thread = threading.Thread(target=run)
    part.call_here(begin)
    new()
    go_on.set()
    new()
    thread.join()
    new()


def backward(of: Does) -> None:
    """Modules are called by the hooks of a backward pass."""
    scale = of.parts[2]

    def hook(*_: Any) -> None:
        new()
        of.parts[0](alone)
        new()
        of.parts[0].call_here(lines)
        new()
        new()

    handle = scale.register_full_backward_hook(hook)
    x = scale(torch.ones(3, requires_grad=True))
    x.register_hook(hook)
    x.sum().backward()
    handle.remove()
    new()


def interrupted(leave: Callable[[], None], enter: Callable[[], None]) -> Work:
    """What is left and entered again in the middle of calls, and in others than it was left in."""

    def left(of: Does) -> None:
        new()
        leave()
        new()
        of.call_here(alone)
        new()

    def entered(of: Does) -> None:
        new()
        of.call_here(lambda _: enter())
        new()
        new()
        of.call_here(alone)
        new()
        new()

    def work(of: Does) -> None:
        new()
        leave()
        of.parts[0](alone)
        enter()
        new()
        new()
        of.parts[0].call_here(left)
        new()
        of.parts[0].call_here(entered)
        new()
        new()
        of.parts[0](left)
        of.parts[1](entered)
        new()
        of.parts[1](lines)
        new()

    return work


def main() -> None:
    model = Does(Does(Does()), Does(Does()), Scale())
    paths.update((id(module), path or "Does") for path, module in model.named_modules())
    start()
    works = (lines, recursion(50), nested(50), nested(80), errors, generators, threads, backward)
    for work in (*works, interrupted(pause, resume)):
        for _ in range(2):
            model(work)
            new()
            work(model)
            new()
            model.call_here(work)
            new()
            new()
    model(interrupted(stop, start))
    new()
    model(lines)
    stop()
    for i, frames in enumerate(true):
        (FOLDER / f"{i}.json").write_text(json.dumps(frames))


if __name__ == "__main__":
    main()
