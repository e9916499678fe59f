"""Fills windows of records on two threads for so long, and says what it made and kept.

    python busy.py SECONDS [fork]     (fork: a child does the same, and is waited for)

Prints "begins", and at its end, as JSON, how many tensors of each size it made, and those it kept.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time

import torch

THREADS = 2
FIRST_BYTES = 10_000  # no other tensor of the program is as large
AT_ONCE = 100
kept: list[torch.Tensor] = []


def allocate(thread: int, until_s: float, made: dict[int, int]) -> None:
    size = FIRST_BYTES + thread
    while time.monotonic() < until_s:
        for _ in range(AT_ONCE):
            tensor = torch.empty(size, dtype=torch.uint8)
        made[size] += AT_ONCE
        if made[size] % (100 * AT_ONCE) == 0:
            kept.append(tensor)
        time.sleep(0.002)


def main() -> None:
    print("begins", flush=True)
    child = os.fork() if "fork" in sys.argv else None
    until_s = time.monotonic() + float(sys.argv[1])
    made = {FIRST_BYTES + thread: 0 for thread in range(THREADS)}
    threads = [threading.Thread(target=allocate, args=(i, until_s, made)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if child:
        os.waitpid(child, 0)
    sizes = sorted(tensor.numel() for tensor in kept)
    print(json.dumps({"made": made, "kept": sizes}), flush=True)


main()
