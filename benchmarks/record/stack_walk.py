"""What one stack id costs, beside other ways to know the Python stack; what watching deaths costs.

    python benchmarks/record/stack_walk.py [--rounds 30] [--instructions]

The ways take turns in every round; thread CPU time, median and spread. torch's gather_traceback is
what its memory history calls at every event (symbolizing comes later, on top). `--instructions`
counts with callgrind, which needs valgrind and does not depend on the machine's load.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "tests" / "hook")]

import stack_testing

sys.path.insert(0, str(stack_testing.build()))

import memtrace_stack_testing as stacks

DEPTHS = (10, 30, 60)


def walk(_: object = None) -> int:
    """The same in Python: code and place of every frame."""
    frame, found = sys._getframe(), 0
    while frame:
        found ^= hash((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return found


def timed(call: Callable[[], object], count: int) -> float:
    begun = time.thread_time_ns()
    for _ in range(count):
        call()
    return (time.thread_time_ns() - begun) / count


def ways() -> dict[str, Callable[[], float]]:
    """Each gives ns per stack, taken where it is called."""
    found: dict[str, Callable[[], float]] = {
        "memtrace": lambda: stacks.bench(20_000)[0],
        "sys._getframe and f_back": lambda: timed(walk, 500),
    }
    try:
        from torch._C._profiler import gather_traceback
    except ImportError:
        return found
    found["torch gather_traceback"] = lambda: timed(
        lambda: gather_traceback(python=True, script=False, cpp=False), 500
    )
    return found


def at_depth(depth: int, call: Callable[[], float]) -> float:
    """Runs the call with `depth` Python frames on the stack, its own among them."""

    def deeper(left: int) -> float:
        return deeper(left - 1) if left > 0 else call()

    out: list[float] = []

    def run() -> None:
        # Below: run, deeper(0), call; the two of threading are outside.
        outside = 0
        frame = sys._getframe(1)
        while frame:
            outside, frame = outside + 1, frame.f_back
        out.append(deeper(depth - outside - 3))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return out[0]


def object_death_ns() -> float:
    """One object of a Python class made and dropped."""

    class Plain:
        pass

    return timed(Plain, 20_000)


def instructions(depth: int) -> float:
    """Callgrind's count per stack at this depth."""

    def run(count: int) -> int:
        code = (
            "import sys\n"
            "import memtrace_stack_testing as stacks\n"
            "stacks.start()\n"
            f"def deeper(left): return deeper(left - 1) if left else stacks.bench({count})\n"
            f"deeper({depth - 2})\n"
        )
        with tempfile.NamedTemporaryFile() as out:
            tool = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out.name}"]
            done = subprocess.run(
                [*tool, sys.executable, "-S", "-c", code],
                env={
                    **os.environ,
                    "PYTHONPATH": str(Path(stacks.__file__).parent),
                    "PYTHONHASHSEED": "0",
                },
                capture_output=True,
                text=True,
                check=True,
            )
        found = re.search(r"Collected\s*:\s*(\d+)", done.stderr)
        assert found, done.stderr
        return int(found.group(1))

    few, many = 10_000, 210_000
    return (run(many) - run(few)) / (many - few)


def row(name: str, values: list[float]) -> str:
    low, high = min(values), max(values)
    return f"{name:<28}{statistics.median(values):>9.1f} ns   ({low:.1f} to {high:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--instructions", action="store_true")
    options = parser.parse_args()
    plain: list[float] = [object_death_ns() for _ in range(options.rounds)]
    stacks.start()
    from fake_module import Module

    stacks.install_modules(Module)
    watched: list[float] = []
    for depth in DEPTHS:
        timings: dict[str, list[float]] = {name: [] for name in ways()}
        for _ in range(options.rounds):
            for name, call in ways().items():
                timings[name].append(at_depth(depth, call))
            watched.append(object_death_ns())
        print(f"depth {depth}")
        for name, values in timings.items():
            print("  " + row(name, values))
        if options.instructions:
            print(f"  {'memtrace':<28}{instructions(depth):>9.0f} instructions")
    print("an object of a Python class, made and dropped")
    print("  " + row("deaths not watched", plain))
    print("  " + row("deaths watched", watched))


if __name__ == "__main__":
    main()
