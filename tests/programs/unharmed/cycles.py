"""1,000 recordings one after the other in one process, while other threads allocate all the time.

    python cycles.py FOLDER     (not under memtrace)

Prints the number of file descriptors and the kilobytes of memory in use after each fiftieth.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
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
        return sum(bool(re.search(r"/(windows|control|handover)\.bin", line)) for line in file)


class Mallinfo2(ctypes.Structure):
    """Of the C library: what it has given out, of all that it holds."""

    _fields_ = tuple((name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
        "fordblks", "keepcost",
    ))  # fmt: skip


def in_use_kb() -> int:
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = Mallinfo2
    told = mallinfo2()
    return (told.uordblks + told.hblkhd) >> 10


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
            rows.append([descriptors(), in_use_kb(), mappings()])
    stop.set()
    for thread in threads:
        thread.join()
    print(json.dumps(rows))


main()
