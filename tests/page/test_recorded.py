"""Pages of real recordings: a training run, a server, and out of memory on torch's allocator."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from memtrace.analyse.peak import find_peak
from memtrace.trace import open_trace
from page.conftest import Page
from program_runs import recorded

Opened = Callable[..., Page]
ROOT = Path(__file__).resolve().parents[2]

TRAINING = """
import memtrace, torch
from torch import nn
model = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 8))
optimizer = torch.optim.Adam(model.parameters())
with memtrace.stage("train"):
    for _ in range(4):
        nn.functional.mse_loss(model(torch.randn(32, 64)), torch.randn(32, 8)).backward()
        optimizer.step()
        optimizer.zero_grad()
"""
RUNNING_OUT = """
import memtrace, torch
from torch import nn
model = nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(4))).cuda()
with memtrace.stage("grow"):
    held = []
    try:
        while True:
            held.append(model(torch.zeros(4096, 1024, device="cuda")))
    except torch.OutOfMemoryError:
        print(torch.cuda.max_memory_allocated())
"""


def check_peaks(page: Page, trace: Path, device: str) -> None:
    """What is shown at the peak is what `memtrace peak` says, by every column."""
    page.run("report.jumpToPeak()")
    for by in ("category", "module", "operator", "source"):
        breakdown = find_peak(open_trace(trace), device=device, by=by).breakdown
        shown = page.run(
            "return scope.grouped(scope.liveSites(report.cut), arguments[0])"
            ".map(({name, bytes}) => [name, bytes])",
            by,
        )
        assert dict(shown) == {row.key: row.total_bytes for row in breakdown.rows}
    assert page.run("return report.live.isExact")
    assert page.complaints() == []


def test_a_training_run(opened: Opened, tmp_path: Path) -> None:
    trace = tmp_path / "training.memtrace"
    assert recorded(trace, "-c", TRAINING).status == 0
    page = opened(trace)
    check_peaks(page, trace, "cpu")
    assert page.run("return scope.steps.total") == 4
    assert {"weight", "gradient", "optimizer_state"} <= set(
        page.run("return report.timeline.stack.names")
    )
    assert "End of train" in page.texts("#instant option")


def test_a_server(opened: Opened, tmp_path: Path) -> None:
    trace = tmp_path / "server.memtrace"
    program = ROOT / "examples" / "serve.py"
    shown = recorded(trace, program, "--size", "tiny", "--requests", "2")
    assert shown.status == 0, shown.err
    page = opened(trace)
    check_peaks(page, trace, "cpu")
    assert [stage["name"] for stage in page.run("return scope.process.stages")][:3] == [
        "load", "idle", "inference",
    ]  # fmt: skip
    assert page.run("return Boolean(scope.processMemory)")
    assert "kv_cache" in page.run("return report.timeline.stack.names")


@pytest.mark.cuda_sim
def test_out_of_memory(opened: Opened, tmp_path: Path) -> None:
    import simcuda

    trace = tmp_path / "oom.memtrace"
    program = tmp_path / "program.py"
    program.write_text(RUNNING_OUT)
    done = subprocess.run(
        [sys.executable, "-m", "memtrace", "run", "--quiet", "-o", str(trace), str(program)],
        env={**os.environ, **simcuda.environment(simcuda.Machine(memory_mb=512))},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    page = opened(trace)
    check_peaks(page, trace, "cuda:0")
    assert page.run("return scope.headline.peak_bytes") == int(done.stdout)
    assert "Out of memory at" in page.text("#headline .bad-banner")
    page.click("#jump-oom")
    assert "Out of memory 1" in page.text("#instant-line")
    page.press("4")
    layout = page.run(
        "const {reserved, used, waiting} = report.segments.layout; return [reserved, used, waiting]"
    )
    at = page.run("return [scope.cuts.reserved[report.cut], scope.cuts.allocated[report.cut], 0]")
    assert layout == at
