"""The requests of a device, read from a trace, changed, and served on the host."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import memtrace
from memtrace.errors import MemtraceError
from memtrace.replay.outcome import serve_on_host
from memtrace.replay.requests import NEVER, Requests, after, before, read_requests
from trace_builder import TraceBuilder

PROGRAM = """
import torch
model = torch.nn.Sequential(*[torch.nn.Linear(64, 64) for _ in range(4)])
optimizer = torch.optim.AdamW(model.parameters())
for batch in (2, 200):
    model(torch.randn(batch, 64)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
"""


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> Requests:
    folder = tmp_path_factory.mktemp("requests")
    (folder / "program.py").write_text(PROGRAM)
    argv = [sys.executable, "-m", "memtrace", "run", "--quiet", "-o", "t.memtrace", "program.py"]
    subprocess.run(argv, cwd=folder, check=True)
    return read_requests(memtrace.open(folder / "t.memtrace"))


def test_as_recorded_the_peak_is_the_traces_own(requests: Requests) -> None:
    outcome = serve_on_host(requests)
    for of in ("allocated", "requested"):
        recorded = requests.trace.peak("cpu", of)
        assert outcome.peak(of).total_bytes == recorded.total_bytes
        assert outcome.peak(of).place == recorded.moment.seq
    assert not requests.changed


def test_the_curve_is_that_of_the_events(requests: Requests) -> None:
    outcome = serve_on_host(requests)
    events = requests.trace.events.to_pylist()
    recorded = {row["seq"]: row["allocated_bytes"] for row in events if row["device"] == "cpu"}
    assert dict(zip(outcome.places, outcome.curves["allocated"], strict=True)) == recorded


def test_what_is_held_at_a_place_sums_to_the_total_there(requests: Requests) -> None:
    outcome = serve_on_host(requests)
    for place, total in list(zip(outcome.places, outcome.curves["allocated"], strict=True))[::7]:
        assert sum(outcome.held(place)["bytes"].to_pylist()) == total


def test_the_peak_of_a_window_counts_what_stood_as_it_began(requests: Requests) -> None:
    outcome = serve_on_host(requests)
    totals, places = outcome.curves["allocated"], outcome.places
    middle = len(places) // 2
    window = outcome.peak(start=places[middle] + 0.1, end=places[middle] + 0.2)
    assert window.total_bytes == totals[middle]
    first = outcome.peak(end=places[middle])
    assert first.total_bytes == totals[:middle].max()


def test_changed_requests_leave_the_recorded_ones_alone(requests: Requests) -> None:
    halved = requests.resized(requests.size_bytes // 2)
    assert halved.changed
    assert serve_on_host(halved).peak().total_bytes < serve_on_host(requests).peak().total_bytes
    kept = np.arange(len(requests)) != 0
    assert len(requests.chosen(kept)) == len(requests) - 1
    moved = requests.moved(free=np.full(len(requests), NEVER))
    assert serve_on_host(moved).peak().total_bytes == requests.size_bytes.sum()
    assert (moved.release == NEVER).all()
    assert not requests.changed


def test_added_rows_are_like_their_models(requests: Requests) -> None:
    peak = serve_on_host(requests).peak()
    place = np.array([peak.place])
    like = np.array([int(np.flatnonzero(requests.start == peak.place)[0])])
    more = requests.added(
        like,
        size_bytes=np.array([1000]),
        start=after(place),
        free=after(place) + 0.1,
        category="temporary",
    )
    outcome = serve_on_host(more)
    assert outcome.peak().total_bytes == peak.total_bytes + 1000
    held = outcome.held(outcome.peak().place).to_pylist()
    assert held[-1]["bytes"] == 1000
    assert held[-1]["category"] == "temporary"
    assert held[-1]["operator"] == requests.rows["operator"][int(like[0])].as_py()
    assert serve_on_host(requests.added(
        like, size_bytes=np.array([1000]), start=before(place) - 0.1, free=before(place)
    )).peak().total_bytes == peak.total_bytes  # fmt: skip


def test_a_device_that_the_trace_has_not(requests: Requests) -> None:
    with pytest.raises(MemtraceError, match="no memory of cuda:0"):
        read_requests(requests.trace, device="cuda:0")


def test_of_steps_only_calls_of_models_count(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    with process.step(name="POST /generate", root_module=None):
        process.alloc("cpu", 1, step=1)
        with process.step(parent_step=1):
            process.alloc("cpu", 2, step=2)
    process.alloc("cpu", 4)
    found = read_requests(memtrace.open(builder.write()))
    assert found.rows.column("step").to_pylist() == [None, 2, None]
