"""The least capacity that fit tells, tried: with it a program completes, with less it does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import simcuda
from memtrace.fit.served import serve
from memtrace.replay.requests import read_requests
from memtrace.trace import open_trace

PROGRAM = """
import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(*[nn.Linear(1024, 1024) for _ in range(8)]).cuda()
optimizer = torch.optim.AdamW(model.parameters())
for batch in (500, 3000, 1200, 5000):
    model(torch.randn(batch, 1024, device="cuda")).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
"""
CONTEXT_MB = 300
MIB = 1 << 20


def status(folder: Path, memory_mb: int, *arguments: str) -> int:
    machine = simcuda.Machine(memory_mb=memory_mb, context_mb=CONTEXT_MB)
    done = subprocess.run(
        [sys.executable, *arguments, "train.py"], cwd=folder, env=simcuda.environment(machine),
        capture_output=True, check=False,
    )  # fmt: skip
    return done.returncode


@pytest.mark.cuda_sim
def test_it_completes_with_so_much_and_not_with_less(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(PROGRAM)
    run = ("-m", "memtrace", "run", "--quiet", "-o", "t.memtrace")
    assert status(tmp_path, 8192, *run) == 0
    served = serve(read_requests(open_trace(tmp_path / "t.memtrace")), on_gpu=True)
    reserved = served.outcome.peak("reserved").total_bytes
    low, high = served.low_bytes // MIB, served.high_bytes // MIB
    assert served.outcome.peak().total_bytes // MIB <= low <= high < reserved // MIB
    assert status(tmp_path, CONTEXT_MB + high) == 0
    assert status(tmp_path, CONTEXT_MB + low - 2) == 1
