"""What an event costs when several threads record at once: thread CPU time per event.

    python benchmarks/record/threads.py [--rounds 20] [--plain]

Each thread allocates and frees CPU tensors inside one operator call each, with operators and stacks
on (`--plain`: off), with nothing and with the hooks next to each other in time. The threads are
Python's, and run without the GIL in C++ (threads.cpp). Thread CPU time of all threads; what the
hooks add, per allocator event; medians and quartiles, and the ratio to one thread. With fewer
processors than threads, waiting is not counted, being pushed out of a cache is.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import statistics
import sys
import threading
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from record.recording import HooksOn
from record.torch_library import torch_library

THREADS = (1, 2, 4, 8, 16)
CALLS = 50_000  # a thread's per measurement; two events each


def thread_turn() -> Callable[[int], float]:
    """Takes a number of calls; returns the thread CPU time of them all, in nanoseconds."""
    function = torch_library(Path(__file__).with_suffix(".cpp")).allocate_and_free_ns
    function.argtypes, function.restype = [ctypes.c_long], ctypes.c_double
    return function


class Workers:
    """Threads that live on, as a program's do; each measurement is one turn of them all."""

    def __init__(self, count: int, turn_ns: Callable[[int], float]) -> None:
        self._turn_ns = turn_ns
        self._turn = threading.Barrier(count + 1)
        self._ended = threading.Barrier(count + 1)
        self._spent_ns = [0.0] * count
        self._over = False
        self._threads = [threading.Thread(target=self._work, args=(i,)) for i in range(count)]
        for thread in self._threads:
            thread.start()

    def _work(self, place: int) -> None:
        while True:
            self._turn.wait()
            if self._over:
                return
            self._spent_ns[place] = self._turn_ns(CALLS)
            self._ended.wait()

    def per_event_ns(self) -> float:
        """Thread CPU time of one turn, per allocator event."""
        self._turn.wait()
        self._ended.wait()
        return statistics.mean(self._spent_ns) / (2 * CALLS)

    def close(self) -> None:
        self._over = True
        self._turn.wait()
        for thread in self._threads:
            thread.join()


def added_ns(workers: Workers, *, plain: bool) -> float:
    """What the hooks add per event, in one round."""
    nothing = workers.per_event_ns()
    with HooksOn(operators=not plain, stacks=not plain):
        for _ in range(2):  # the first pays for first sights and new windows
            recorded = workers.per_event_ns()
    return recorded - (nothing + workers.per_event_ns()) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--plain", action="store_true", help="without operators and stacks")
    options = parser.parse_args()
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()
    turn_ns = thread_turn()
    workers = {count: Workers(count, turn_ns) for count in THREADS}
    found: dict[int, list[float]] = {count: [] for count in THREADS}
    for _ in range(options.rounds):
        for count in THREADS:
            found[count].append(added_ns(workers[count], plain=options.plain))
    one = statistics.median(found[1])
    print(f"{'threads':>8}{'added ns per event':>20}{'quartiles':>16}{'of one thread':>15}")
    for count, values in found.items():
        low, median, high = statistics.quantiles(values, n=4)
        print(f"{count:8}{median:20.1f}{f'{low:.1f} {high:.1f}':>16}{median / one:15.2f}")
    for each in workers.values():
        each.close()


if __name__ == "__main__":
    main()
