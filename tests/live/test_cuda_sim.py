"""On torch's real caching allocator: live figures are torch's own counters, to the byte."""

from __future__ import annotations

from pathlib import Path

import pytest

import simcuda
from live.finished_figures import FinishedFigures
from live.stopping_program import settled, stopping_program
from memtrace.live.follow import TraceFollower
from program_runs import plain_environment

pytestmark = pytest.mark.cuda_sim


@pytest.mark.parametrize("conf", ["", "expandable_segments:True"])
def test_figures_at_each_stop_are_torchs_counters(tmp_path: Path, conf: str) -> None:
    trace = tmp_path / "t.memtrace"
    environment = {**plain_environment(), **simcuda.environment(simcuda.Machine())}
    if conf:
        environment["PYTORCH_ALLOC_CONF"] = conf
    with stopping_program(trace, environment=environment) as program:
        follower = TraceFollower(trace)
        views = []
        for _ in range(5):
            torch_counts = program.go_on()
            (process,) = settled(follower).processes
            views.append(process)
            device = process.device("cuda:0")
            assert device is not None
            assert device.allocated_bytes == torch_counts["allocated"]
            assert device.active_bytes == torch_counts["active"]
            assert device.reserved_bytes == torch_counts["reserved"]
            assert device.peak_bytes == torch_counts["peak_allocated"]
            assert device.peak_reserved_bytes == torch_counts["peak_reserved"]
            assert max(device.reserved_curve) == torch_counts["peak_reserved"]
            assert device.total_bytes == 1024 << 20
            for by in device.holders:
                held = device.holders[by]
                assert sum(holder.now_bytes for holder in held) == device.allocated_bytes
                assert sum(holder.peak_bytes for holder in held) == device.peak_bytes
        program.end()
    figures = FinishedFigures(trace, "cuda:0")
    for process in views[1:]:
        device = process.device("cuda:0")
        assert device is not None
        figures.check(device, process.events, by=["operator", "source", "module"])
