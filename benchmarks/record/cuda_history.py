"""What recording adds per CUDA event, beside torch's own memory history, on the simulated runtime.

    python benchmarks/record/cuda_history.py [--rounds 30]

Two workloads: one operator per allocation (torch.empty at a Python stack 30 deep), and tiny GPT-2
decoding, all costs included. The variants take turns; thread CPU time; added time = variant less
nothing in the same round, divided by the allocator's events. Each measurement warms up first, as in
a program that serves for hours: names, stacks and pages that are seen for the first time are not
counted, of neither side, nor is what the end of one variant leaves cold for the next. On a real GPU
it runs as it is.

A tracker cannot be detached from torch's allocator, so from the first recording on "nothing" still
pays for torch's TraceEntry and our closed gate. That part is measured on its own, before and after
attaching, and added to every variant. The second table splits memtrace's cost into its parts.

What the finaliser does beside the program (it packs the records) is not the thread's time: its CPU
time per event is a line of its own.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

import simcuda

if not simcuda.real_gpu() and simcuda.unavailable() is None:
    simcuda.load(devices=1, memory_mb=2048)

import torch
from record.floors import empty_callback, least_tracer
from record.recording import HooksOn, packer_beside
from record.torch_history import TorchHistory
from record.workloads import tiny

DEPTH = 30
WARM_UP = 4  # iterations
MEASURED = 16
PACKED = 200


TORCH, ALL = "torch history (all, python)", "memtrace, everything on"
EVENTS, STACKS = "memtrace, no operators, no stacks", "memtrace --no-operators"
FLOOR = "RecordFunction, callbacks do nothing"
LEAST = "RecordFunction, clock and records"
VARIANTS: dict[str, Callable] = {
    TORCH: TorchHistory,
    ALL: lambda: HooksOn(cuda=True),
    "memtrace, nobody packs beside": lambda: HooksOn(cuda=True, beside=False),
    STACKS: lambda: HooksOn(operators=False, cuda=True),
    "memtrace, no stacks": lambda: HooksOn(stacks=False, cuda=True),
    EVENTS: lambda: HooksOn(operators=False, stacks=False, cuda=True),
    FLOOR: empty_callback,
    LEAST: least_tracer,
}


def deep(depth: int, work: Callable[[], None]) -> None:
    if depth > 0:
        deep(depth - 1, work)
    else:
        work()


def one_operator_per_allocation() -> None:
    empty = torch.empty
    for _ in range(2000):
        empty(1024, device="cuda")


def events(workload: Callable[[], None]) -> int:
    """Allocator events of one iteration: alloc, free_requested, free_completed."""
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    workload()
    return 3 * (torch.cuda.memory_stats()["allocation.all.allocated"] - before)


def measure(workload: Callable[[], None], times: int = 1) -> float:
    start = time.thread_time_ns()
    for _ in range(times):
        workload()
    return (time.thread_time_ns() - start) / times


def measure_warm(workload: Callable[[], None], times: int) -> float:
    measure(workload, WARM_UP)
    return measure(workload, times)


def added_ns(workload: Callable[[], None], rounds: int) -> dict[str, list[float]]:
    """Added ns per event, by variant, one value per round."""
    per_iteration = events(workload)
    found: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(rounds):
        for name, variant in VARIANTS.items():
            nothing = measure_warm(workload, MEASURED // 2)
            with variant():
                with_variant = measure_warm(workload, MEASURED)
            nothing = (nothing + measure_warm(workload, MEASURED // 2)) / 2
            found[name].append((with_variant - nothing) / per_iteration)
    return found


def packer_ns(workload: Callable[[], None]) -> float:
    """CPU time per event of the process that packs beside, with everything on."""
    with HooksOn(cuda=True):
        measure(workload, WARM_UP)
        before_s = packer_beside().cpu_s
        measure(workload, PACKED)
        packed_s = packer_beside().cpu_s - before_s
    return packed_s * 1e9 / (PACKED * events(workload))


def nothing_ns(workload: Callable[[], None], rounds: int) -> float:
    """Least time of the workload by itself: before and after attaching cannot take turns."""
    return min(measure(workload) for _ in range(10 * rounds))


def print_split(attached_ns: float, found: dict[str, list[float]]) -> None:
    """The parts of memtrace's cost per event, each the difference of two variants."""
    events_ns, stacks_ns, all_ns, floor_ns = (
        statistics.median(found[name]) for name in (EVENTS, STACKS, ALL, FLOOR)
    )
    parts = {
        "torch's TraceEntry and the call": attached_ns,
        "clock and store": events_ns,
        "stack": stacks_ns - events_ns,
        "torch's RecordFunction": floor_ns,
        "operators": all_ns - stacks_ns - floor_ns,
    }
    print("  of which: " + ", ".join(f"{name} {ns:.0f}" for name, ns in parts.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.cuda.init()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    workloads = {
        f"one operator per allocation, depth {DEPTH}": lambda: deep(
            DEPTH - 6, one_operator_per_allocation
        ),
        "tiny GPT-2": tiny("cuda"),
    }
    # What attaching adds is the same for every event: measured where the noise is least.
    loop = workloads[f"one operator per allocation, depth {DEPTH}"]
    for workload in workloads.values():
        for _ in range(3):
            workload()
    # A full collection of the imported libraries' objects falls into some measurements only.
    gc.collect()
    gc.freeze()
    detached = nothing_ns(loop, options.rounds)
    with HooksOn(cuda=True):
        pass
    attached_ns = (nothing_ns(loop, options.rounds) - detached) / events(loop)
    for name, workload in workloads.items():
        found = added_ns(workload, options.rounds)
        torchs = statistics.median(found[TORCH]) + attached_ns
        print(f"\n{name}: added ns per event (median, quartiles), times cheaper than torch's")
        for variant, values in found.items():
            low, median, high = (q + attached_ns for q in statistics.quantiles(values, n=4))
            print(
                f"  {variant:36s} {median:8.0f} [{low:6.0f} {high:6.0f}]   {torchs / median:5.1f}x"
            )
        print_split(attached_ns, found)
        print(
            f"  beside the program, in the process that packs: {packer_ns(workload):.0f} ns of CPU"
        )


if __name__ == "__main__":
    main()
