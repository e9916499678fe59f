"""Trains a small model on two threads for so many steps, when it is told to go on."""

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


def train(steps: int, *, stages: bool) -> None:
    model = Net()
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
    thread = threading.Thread(target=train, args=(steps // 2,), kwargs={"stages": False})
    thread.start()
    train(steps, stages=True)
    thread.join()
