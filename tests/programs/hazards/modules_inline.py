"""A module for each call: such as are gone after it, then such as are kept.

Prints by how many bytes the process grew in the second half of the first, and what calls of the
first and of the last that were kept took.
"""

from __future__ import annotations

import json
import time

import torch
from torch import nn


def resident_bytes() -> int:
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("Anonymous:"))


torch.set_num_threads(1)
torch.set_grad_enabled(False)
x = torch.ones(4, 4)
for _ in range(150_000):  # caches of stacks have their full size by now
    nn.Softmax(1)(x)
before = resident_bytes()
for _ in range(100_000):
    nn.Softmax(1)(x)
grown = resident_bytes() - before

kept = []


def keep(count: int) -> float:
    began = time.thread_time()
    for _ in range(count):
        kept.append(nn.Softmax(1))
        kept[-1](x)
    return time.thread_time() - began


first = keep(1000)
keep(8000)
last = keep(1000)
print(json.dumps({"grown_bytes": grown, "first_s": first, "last_s": last}))
