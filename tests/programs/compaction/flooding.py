"""Does nothing but allocate, so many times, when it is told to go on."""

from __future__ import annotations

import sys

import torch

if __name__ == "__main__":
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(int(sys.argv[1])):
        torch.empty(number % 99 + 1)
