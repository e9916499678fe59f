"""1,000 recordings one after the other in one process, while other threads allocate all the time.

    python cycles.py FOLDER     (not under memtrace)

Prints the number of file descriptors and the kilobytes of private memory after each fiftieth.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading

import torch
from torch import nn

import memtrace
from memtrace import recording, session

CYCLES = 1000
stop = threading.Event()


def allocate() -> None:
    model = nn.Linear(5, 5)
    while not stop.is_set():
        model(torch.ones(3, 5)).sum().backward()
        torch.zeros(50).resize_(100)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def mappings() -> int:
    with open("/proc/self/maps") as file:
        return sum("windows.bin" in line or "control.bin" in line for line in file)


def private_kb() -> int:
    with open("/proc/self/smaps_rollup") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("Private_"))


def main() -> None:
    folder = sys.argv[1]
    # The trace is thrown away: the finaliser, another process, is tested elsewhere.
    session._finalise = shutil.rmtree
    threads = [threading.Thread(target=allocate) for _ in range(3)]
    for thread in threads:
        thread.start()
    rows = []
    for i in range(CYCLES):
        with memtrace.record(f"{folder}/{i}.memtrace"):
            for _ in range(20):
                torch.ones(10) * 2
            short = threading.Thread(target=torch.ones, args=(5,))
            short.start()
            short.join()
        assert recording.current() is None
        if i % 50 == 49:
            rows.append([descriptors(), private_kb(), mappings()])
    stop.set()
    for thread in threads:
        thread.join()
    print(json.dumps(rows))


main()
