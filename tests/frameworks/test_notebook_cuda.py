"""A notebook on a GPU, simulated: what earlier cells left there is in the peak of a later one."""

from __future__ import annotations

from pathlib import Path

import pytest

import memtrace
import simcuda
from memtrace.report.units import size
from notebook_runs import read_html, run_notebook
from program_runs import plain_environment

BATCH = (
    "%%memtrace -o x.memtrace --device cuda:0\ny = model(torch.zeros(4096, 1024, device='cuda'))"
)
STATS = "torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()"


@pytest.mark.cuda_sim
def test_a_cell_on_a_gpu(tmp_path: Path) -> None:
    environment = simcuda.environment(simcuda.Machine(memory_mb=512))
    cells = run_notebook(
        tmp_path, "%load_ext memtrace\nimport torch\nfrom torch import nn",
        "model = nn.Sequential(nn.Linear(1024, 1024), nn.ReLU()).cuda()\n"
        "torch.cuda.reset_peak_memory_stats()",
        BATCH, STATS,
        "%%memtrace -o oom.memtrace --no-report\nheld = torch.zeros(1 << 30, device='cuda')",
        environment={**plain_environment(), **environment},
    )  # fmt: skip
    allocated, reserved = map(int, cells[3].value["text/plain"].strip("()").split(","))
    peaks, owners = read_html(cells[2].shown[0]["text/html"]).tables
    row = dict(zip(*peaks, strict=True))
    assert (row["Device"], row["Bytes"], row["Reserved"]) == (
        "cuda:0", f"{allocated:,}", size(reserved),
    )  # fmt: skip
    assert owners[0][0] == "Peak of cuda:0"
    peak = memtrace.open(tmp_path / "x.memtrace").peak("cuda:0", by="category")
    assert peak.total_bytes == allocated
    held = {row.key: row.total_bytes for row in peak.breakdown.rows}
    assert held["weight"] == 1024 * 1024 * 4 + 4096
    assert len(cells[2].shown) == 2
    assert cells[4].kinds == ["error", "display_data"]
    assert cells[4].of_kind("error")[0].ename == "OutOfMemoryError"
    assert "cuda:0 out of memory once" in cells[4].shown[0]["text/plain"]
