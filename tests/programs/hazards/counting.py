"""Allocates tensor N of N bytes, and only then says N over a pipe: what it said is in the trace.

    python counting.py FD     (under `memtrace run`)

Threads, resizes and modules make all kinds of records; only the main thread counts.
"""

from __future__ import annotations

import os
import sys
import threading

import torch
from torch import nn

NOISE_BYTES = 1 << 20  # what the other threads allocate is larger than any N
WORD_BYTES = 4


def count(fd: int) -> None:
    """Never returns."""
    model = make_model()
    x = torch.zeros(NOISE_BYTES)
    for _ in range(2):
        threading.Thread(target=make_noise, daemon=True).start()
    number = 0
    while True:
        for _ in range(16):
            number += 1
            torch.empty(number, dtype=torch.uint8)
            os.write(fd, number.to_bytes(WORD_BYTES, "little"))
        with torch.no_grad():
            model(x[:NOISE_BYTES].view(-1, 1).expand(-1, 3)[:90000])


def make_model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 3), nn.Tanh())


def make_noise() -> None:
    while True:
        kept = [torch.zeros(NOISE_BYTES // 4 + i) + 1 for i in range(3)]
        del kept


if __name__ == "__main__":
    count(int(sys.argv[1]))
