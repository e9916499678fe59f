"""A program's own trace function, and its profiler, see the program and nothing else."""

from __future__ import annotations

import cProfile
import os
import pstats
import subprocess
import sys

import torch
from torch import nn

seen: list[tuple[str, str]] = []


def trace(frame, event, argument):
    seen.append((frame.f_code.co_filename, event))
    return trace


def models() -> None:
    for _ in range(3):
        nn.Sequential(nn.Linear(2, 2), nn.ReLU())(torch.zeros(1, 2))


def work() -> None:
    models()
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    subprocess.run(["true"], check=True)


work()  # what is imported at first use
sys.settrace(trace)
work()
sys.settrace(None)
print(len(seen), sorted({name for name, _ in seen if "memtrace" in name}))

profile = cProfile.Profile()
# Not the children: a function of C's that is observed is none of C's for the profiler.
profile.runcall(models)
stats = pstats.Stats(profile)
print(stats.total_calls, [key for key in stats.stats if "memtrace" in key[0]])
