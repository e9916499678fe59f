"""5,000 threads that live for one allocation or two, a few at a time; some tensors outlive them.

Each keeps a tensor in a thread's local variable too, which dies as the thread's state is torn down.
"""

from __future__ import annotations

import threading

import torch

THREADS = 5000
AT_ONCE = 10
FIRST_BYTES = 10_000  # no other tensor of the program is as large
local = threading.local()
kept: list[torch.Tensor] = []


def work(number: int) -> None:
    torch.empty(FIRST_BYTES + number, dtype=torch.uint8)
    local.tensor = torch.empty(FIRST_BYTES + THREADS + number, dtype=torch.uint8)
    if number % 100 == 0:
        kept.append(torch.empty(FIRST_BYTES + 2 * THREADS + number, dtype=torch.uint8))


for first in range(0, THREADS, AT_ONCE):
    threads = [threading.Thread(target=work, args=(first + i,)) for i in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
print(len(kept), sum(tensor.numel() for tensor in kept))
