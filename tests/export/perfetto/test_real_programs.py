"""The files of real programs against their traces, track by track."""

from __future__ import annotations

from pathlib import Path

import pytest

import simcuda
from memtrace.trace import Trace, open_trace
from perfetto_agreement import check_agreement
from perfetto_reader import Parsed, exported
from program_runs import recorded

_TRAINING = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(64, 256), nn.Linear(256, 64)
    def forward(self, x):
        return x + self.down(torch.relu(self.up(x)))

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(2))
    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x.square().mean()

device = "cuda" if torch.cuda.is_available() else "cpu"
net = Net().to(device)
optimizer = torch.optim.AdamW(net.parameters())
for _ in range(3):
    net(torch.randn(32, 64, device=device)).backward()
    optimizer.step()
    optimizer.zero_grad()
try:
    torch.empty(1 << 50, device=device)
except RuntimeError:
    pass
"""


def run(folder: Path, env: dict[str, str] | None = None) -> Trace:
    program = folder / "train.py"
    program.write_text(_TRAINING)
    options = {} if env is None else {"env": env}
    shown = recorded(folder / "t.memtrace", program, **options)
    assert shown.status == 0, shown.err.decode()
    return open_trace(folder / "t.memtrace")


def check_training(trace: Trace, parsed: Parsed, device: str) -> None:
    check_agreement(trace, parsed)
    for row in (row for row in trace.timeline.to_pylist() if row["metric"] == "category"):
        counter = parsed.counters[f"{row['device']} {row['key']}"]
        assert max(value for _, value in counter) >= row["max_bytes"]
    (thread,) = {row["thread_id"] for row in trace.steps.to_pylist()}
    steps = parsed.slices[f"steps of thread {thread}"]
    assert [step.name for step in steps] == [f"training Net {number}" for number in (1, 2, 3)]
    assert steps[0].told["input_shapes"] == '{"x": [32, 64]}'
    modules = [item for item in parsed.slices[f"modules of thread {thread}"] if item.depth < 3]
    one = [(0, "Net")]
    for block in range(2):
        one += [(1, f"blocks.{block}"), (2, f"blocks.{block}.up"), (2, f"blocks.{block}.down")]
    assert [(item.depth, item.name) for item in modules] == one * 3
    (failure,) = [
        i for i in parsed.instants[f"{device} peaks and failures"] if i.name == "out of memory"
    ]
    assert failure.told["asked for, bytes"] == 4 << 50
    heap = parsed.heaps[f"{device.replace(':', ' ')}, live at the peak"]
    frames = {frame for stack in heap.samples for frame in stack}
    assert any(path.endswith("train.py") and line > 0 for _, path, line in frames)


def test_a_training_run(tmp_path: Path) -> None:
    trace = run(tmp_path)
    check_training(trace, exported(trace), "cpu")


@pytest.mark.cuda_sim
def test_a_training_run_on_the_real_cuda_allocator(tmp_path: Path) -> None:
    if reason := simcuda.unavailable():
        pytest.skip(reason)
    trace = run(tmp_path, env=simcuda.environment(simcuda.Machine()))
    parsed = exported(trace)
    check_training(trace, parsed, "cuda:0")
    assert max(value for _, value in parsed.counters["cuda:0 reserved"]) >= 2 << 20
    stacks = [i.stack for i in parsed.instants["cuda:0 allocations"]]
    backward = [stack for stack in stacks if ("backward", "", 0) in stack]
    assert backward, "the engine's thread has no Python frames"
    assert any(function.startswith("blocks.1") for stack in backward for function, _, _ in stack)
