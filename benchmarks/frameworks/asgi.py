"""What the ASGI middleware costs a request, and what a marked step costs.

    python benchmarks/frameworks/asgi.py [--rounds 30]

Beside it a middleware that only passes on. The ways take turns in every round; thread CPU time per
request, median and 10th to 90th percentile. The application does nothing, and needs no server.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import memtrace
from memtrace.frameworks.asgi import Application, MemtraceMiddleware

REQUESTS = 20_000
SCOPE = {"type": "http", "method": "POST", "path": "/generate", "path_params": {}}


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """The application."""


class Passing:
    """The least that a middleware is."""

    def __init__(self, app: Application) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        return await self.app(scope, receive, send)


def request(app: Any) -> Callable[[], None]:
    """A request that never waits, so that no event loop is in the figures."""

    def run() -> None:
        try:  # noqa: SIM105  # suppress() would be in the figures
            app(SCOPE, None, None).send(None)
        except StopIteration:
            pass

    return run


def step() -> None:
    with memtrace.step("batch"):
        pass


WAYS = {
    "the application alone": request(answer),
    "a middleware that passes on": request(Passing(answer)),
    "memtrace's": request(MemtraceMiddleware(answer)),
    "memtrace.step": step,
}


def timed_ns(run: Callable[[], None], count: int) -> float:
    begun = time.thread_time_ns()
    for _ in range(count):
        run()
    return (time.thread_time_ns() - begun) / count


def measure(rounds: int, count: int) -> None:
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, run in WAYS.items():
            times[name].append(timed_ns(run, count))
    for name, values in times.items():
        low, *_, high = statistics.quantiles(values, n=10)
        print(f"  {name:<28} {statistics.median(values):8.0f} ns ({low:.0f} to {high:.0f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    import torch  # what a step of a recording without torch costs is nobody's question

    torch.ones(1)
    with TemporaryDirectory() as folder:
        for recorded in (False, True):
            print("recorded" if recorded else "not recorded")
            with memtrace.record(Path(folder) / "t.memtrace") if recorded else nullcontext():
                measure(rounds, REQUESTS // 10 if recorded else REQUESTS)


if __name__ == "__main__":
    sys.exit(main())
