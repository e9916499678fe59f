"""Trains a little model and stops where it is told: each line on stdin is one more step.

Before each stop it prints what torch counts, as JSON; `end` or the end of stdin ends it.
"""

from __future__ import annotations

import json
import sys

import torch

import memtrace

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def counters() -> dict[str, int]:
    if DEVICE == "cpu":
        return {}
    return {
        "allocated": torch.cuda.memory_allocated(),
        "active": torch.cuda.memory_stats().get("active_bytes.all.current", 0),
        "reserved": torch.cuda.memory_reserved(),
        "peak_allocated": torch.cuda.max_memory_allocated(),
        "peak_reserved": torch.cuda.max_memory_reserved(),
    }


def stop() -> bool:
    print(json.dumps(counters()), flush=True)
    return sys.stdin.readline().strip() not in ("", "end")


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = torch.nn.Linear(128, 256)
        self.down = torch.nn.Linear(256, 128)
        self.register_buffer("scale", torch.ones(128))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.relu(self.up(x))) * self.scale


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList(Block() for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


kept: list[torch.Tensor] = []
going = stop()
with memtrace.stage("load"):
    model = Model().to(DEVICE)
    optimizer = torch.optim.Adam(model.parameters())
    cache = memtrace.label(torch.zeros(1000, device=DEVICE), "the cache", category="kv_cache")
while going and (going := stop()):
    with memtrace.stage("train"):
        loss = model(torch.randn(64, 128, device=DEVICE)).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        kept.append(torch.empty(5000 * (len(kept) + 1), device=DEVICE))
        del loss
