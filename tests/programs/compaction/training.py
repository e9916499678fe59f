"""Trains a small model on two threads for so many steps, when it is told to go on.

The model of the main thread is made last; after a word "first" it is made first, and the other one
is gone soon.
"""

from __future__ import annotations

import sys
import threading
import time

import torch

import memtrace

_REST_S = 1.2  # a shorter one is not called idle


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Linear(16, 32)
        self.b = torch.nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.a(x)))


def train(
    steps: int, *, stages: bool, after: threading.Event | None, made: threading.Event
) -> None:
    if after is not None:
        after.wait()
    model = Net()
    made.set()
    optimizer = torch.optim.AdamW(model.parameters())
    time.sleep(_REST_S)
    for step in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 16)).sum().backward()
        optimizer.step()
        if stages and step % 50 == 0:
            with memtrace.stage(f"stage {step // 50 % 3}"):
                held = [torch.empty(100 * size) for size in range(step // 50)]
                del held


if __name__ == "__main__":
    steps = int(sys.argv[1])
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print("ready", flush=True)
    sys.stdin.readline()
    mine, its = threading.Event(), threading.Event()
    is_first = sys.argv[2:] == ["first"]
    of_thread = {"stages": False, "after": mine if is_first else None, "made": its}
    its_steps = steps // (20 if is_first else 2)
    thread = threading.Thread(target=train, args=(its_steps,), kwargs=of_thread)
    thread.start()
    train(steps, stages=True, after=None if is_first else its, made=mine)
    thread.join()
