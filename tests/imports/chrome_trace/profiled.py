"""A training program whose memory torch.profiler records; run as a program, it writes the trace.

    python profiled.py FOLDER DEVICE      profile.json, recorded.memtrace, counters.json

The same steps are run twice: profiled, and recorded by memtrace.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 256)
        self.second = nn.Linear(256, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


def train(device: str) -> None:
    model = Net().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, foreach=False)
    for _ in range(3):
        with record_function("one step"):
            loss = model(torch.empty(32, 64, device=device)).sum()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    large = torch.empty(3 << 20, device=device)
    del large


def profiled(device: str, **more: Any) -> profile:
    with profile(
        activities=[ProfilerActivity.CPU], profile_memory=True, with_stack=True, **more
    ) as found:
        train(device)
    return found


def main(folder: Path, device: str) -> None:
    import memtrace

    train(device)  # what is made once is made
    gc.collect()
    counters: dict[str, int] = {}
    if device == "cuda":
        held = torch.empty(1 << 20, device=device)
        torch.cuda.reset_peak_memory_stats()
        counters["before"] = torch.cuda.memory_allocated()
    profiled(device).export_chrome_trace(str(folder / "profile.json"))
    if device == "cuda":
        counters["peak"] = torch.cuda.max_memory_allocated()
        counters["reserved"] = torch.cuda.max_memory_reserved()
        counters["end"] = torch.cuda.memory_allocated()
        del held
    gc.collect()
    with memtrace.record(str(folder / "recorded.memtrace")):
        train(device)
    (folder / "counters.json").write_text(json.dumps(counters))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
