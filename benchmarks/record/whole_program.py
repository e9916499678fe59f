"""What recording costs a whole program on the CPU, beside its rivals, in one interleaved run.

    python benchmarks/record/whole_program.py [--pairs 30] [--workload tiny realistic]

Each pair is one iteration with nothing and one with the variant, next to each other in time; thread
CPU time; the ratio of a pair is what counts. Printed: median of the ratios and their quartiles.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from record.floors import empty_callback, least_tracer
from record.recording import HooksOn
from record.workloads import BEFORE_FORWARD, WORKLOADS


@contextlib.contextmanager
def memray_tracker() -> Iterator[None]:
    import memray

    folder = tempfile.mkdtemp(prefix="memray-bench-")
    with memray.Tracker(Path(folder) / "out.bin"):
        yield
    shutil.rmtree(folder)


@contextlib.contextmanager
def torch_profiler() -> Iterator[None]:
    from torch.profiler import ProfilerActivity, profile

    with profile(
        activities=[ProfilerActivity.CPU], profile_memory=True, record_shapes=True, with_stack=True
    ):
        yield


@contextlib.contextmanager
def mem_tracker() -> Iterator[None]:
    from torch.distributed._tools.mem_tracker import MemTracker

    tracker = MemTracker()
    with tracker:
        BEFORE_FORWARD.append(tracker.reset_mod_stats)
        yield
        BEFORE_FORWARD.clear()


VARIANTS: dict[str, Callable[[], contextlib.AbstractContextManager]] = {
    "nothing (noise)": contextlib.nullcontext,
    "memtrace": HooksOn,
    "memtrace --no-operators": lambda: HooksOn(operators=False),
    "memtrace, no stacks": lambda: HooksOn(stacks=False),
    "memtrace, no operators, no stacks": lambda: HooksOn(operators=False, stacks=False),
    "RecordFunction, callbacks do nothing": empty_callback,
    "RecordFunction, clock and records": least_tracer,
    "memray": memray_tracker,
    "torch.profiler (memory, shapes, stack)": torch_profiler,
    "MemTracker": mem_tracker,
}
SLOW = {"torch.profiler (memory, shapes, stack)", "MemTracker"}


def measure(iteration: Callable[[], None], repeats: int) -> float:
    start = time.thread_time_ns()
    for _ in range(repeats):
        iteration()
    return (time.thread_time_ns() - start) / repeats


def measure_warm(iteration: Callable[[], None], repeats: int) -> float:
    """First sights (names, stacks) are paid once per program; nothing is left cold either."""
    measure(iteration, repeats)
    return measure(iteration, repeats)


def ratios(iteration: Callable[[], None], variant: str, pairs: int, repeats: int) -> list[float]:
    found = []
    for pair in range(pairs):
        if pair % 2:
            plain = measure_warm(iteration, repeats)
        with VARIANTS[variant]():
            traced = measure_warm(iteration, repeats)
        if not pair % 2:
            plain = measure_warm(iteration, repeats)
        found.append(traced / plain)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--workload", nargs="*", default=list(WORKLOADS), choices=list(WORKLOADS))
    parser.add_argument("--variant", nargs="*", default=list(VARIANTS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.workload:
        iteration = WORKLOADS[name]()
        for _ in range(3):
            iteration()
        # A full collection of the imported libraries' objects falls into some measurements only.
        gc.collect()
        gc.freeze()
        base = measure(iteration, 5) / 1e6
        print(f"\n{name}: {base:.2f} ms thread CPU per iteration, {options.pairs} pairs")
        print(f"{'variant':42s} {'median':>8s} {'25 %':>8s} {'75 %':>8s}")
        repeats = max(1, round(30 / base))
        for variant in options.variant:
            pairs = max(5, options.pairs // 5) if variant in SLOW else options.pairs
            try:
                found = ratios(iteration, variant, pairs, 1 if variant in SLOW else repeats)
            except NotImplementedError as error:
                print(f"{variant:42s} does not run: {str(error).split('.')[0]}", flush=True)
                continue
            low, median, high = statistics.quantiles(found, n=4)
            print(f"{variant:42s} {median:8.3f} {low:8.3f} {high:8.3f}", flush=True)


if __name__ == "__main__":
    main()
