"""Autograd's threads, threads that outlive main with tensors alive, and tensors freed at exit."""

from __future__ import annotations

import atexit
import sys
import threading
import time

import torch
import torch.utils.checkpoint
from torch import nn

torch.manual_seed(0)
kept_to_the_end = [torch.ones(1000) for _ in range(100)]
local = threading.local()
lock = threading.Lock()
results: dict[int, float] = {}


def train(number: int) -> None:
    model = nn.Linear(6, 6)
    nn.init.constant_(model.weight, 0.1)
    nn.init.constant_(model.bias, 0.0)
    for _ in range(30):
        model.zero_grad()
        torch.utils.checkpoint.checkpoint(
            model, torch.ones(4, 6), use_reentrant=False
        ).sum().backward()
    with lock:
        results[number] = model.weight.grad.sum().item()
    local.tensor = torch.ones(5)  # freed as the thread ends


def outlive() -> None:
    for i in range(50):
        kept_to_the_end.append(torch.full((i + 1,), 2.0))
        time.sleep(0.005)
    print("outlived", len(kept_to_the_end), flush=True)


def at_exit() -> None:
    print("at exit", torch.ones(7).sum().item(), flush=True)


def wait_for_ever() -> None:
    local.tensor = torch.ones(100) + 1  # never freed: daemon threads do not end
    time.sleep(3600)


atexit.register(at_exit)
threads = [threading.Thread(target=train, args=(i,)) for i in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(sorted(results.items()))
threading.Thread(target=outlive).start()
threading.Thread(target=wait_for_ever, daemon=True).start()
futures = [torch.jit.fork(lambda x: x * 2, torch.ones(3)) for _ in range(4)]
print([torch.jit.wait(future).sum().item() for future in futures])
sys.stdout.flush()
