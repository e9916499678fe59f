"""Allocates tensors of known sizes on several threads and frees them, and says what it did.

    python measured.py [SECONDS]     (it allocates evenly over that time; default: at once)

Prints, as JSON, how many tensors of each size it made on each of 3 threads, and the sizes kept.
"""

from __future__ import annotations

import json
import sys
import threading
import time

import torch

THREADS = 3
ROUNDS = 400
FIRST_BYTES = 10_000  # no other tensor of the program is as large
kept: list[torch.Tensor] = []


def allocate(thread: int, seconds: float) -> None:
    """ROUNDS tensors of one size of this thread's; every 40th is kept."""
    begin_s = time.monotonic()
    for i in range(ROUNDS):
        tensor = torch.empty(FIRST_BYTES + thread, dtype=torch.uint8)
        if i % 40 == 0:
            kept.append(tensor)
        left_s = begin_s + seconds * i / ROUNDS - time.monotonic()
        if left_s > 0:
            time.sleep(left_s)


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 0.0
    print("begins", flush=True)
    threads = [threading.Thread(target=allocate, args=(i, seconds)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sizes = sorted(tensor.numel() for tensor in kept)
    print(json.dumps({"made": {FIRST_BYTES + i: ROUNDS for i in range(THREADS)}, "kept": sizes}))


main()
