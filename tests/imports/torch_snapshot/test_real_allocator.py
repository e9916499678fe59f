"""torch's own snapshot of a run, imported, against our recording of the same run: no difference.

The real CUDA caching allocator, on the simulated runtime.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import simcuda
from exact.comparison import devices, events_of
from exact.recording import Recording, record
from exact.test_allocator import SETTINGS
from imports.torch_snapshot import memory_viz
from memtrace.export.snapshot import write_snapshot
from memtrace.imports.importing import import_file
from memtrace.outputs import Selection
from memtrace.trace import Trace, open_trace

pytestmark = pytest.mark.cuda_sim

CASES = [
    ("two_devices", "default"),
    ("two_streams", "expandable"),
    ("empty_cache", "expandable"),
    ("oom_retry", "default"),
    ("mempool", "default"),
    ("graph_capture", "expandable"),
    ("fragmentation", "max_split"),
    ("mlp", "roundup"),
]
#: How many events the ring kept; None: all of them.
KEPT = (None, 400, 100, 30, 7, 1, 0)
EXACT = (
    "action", "address", "size_bytes", "block_bytes", "stream", "allocated_bytes", "active_bytes",
    "reserved_bytes", "device_free_bytes",
)  # fmt: skip


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    program, setting = request.param
    folder = tmp_path_factory.mktemp(program)
    return record(program, SETTINGS[setting], "history", folder)


def snapshot_of(run: Recording, kept: int | None) -> dict[str, Any]:
    """What a ring of so many entries for each device would have given."""
    traces = run.torch["traces"]
    if kept is not None:
        traces = [trace[max(len(trace) - kept, 0) :] for trace in traces]
    return {
        "segments": run.torch["segments"],
        "device_traces": traces,
        "allocator_settings": run.torch["settings"],
    }


def imported(value: dict[str, Any], folder: Path) -> Trace:
    path = folder / "s.pickle"
    path.write_bytes(pickle.dumps(value))
    return open_trace(import_file(path, str(folder / "s.memtrace"), force=True).path)


def rows(events: list[dict[str, Any]], last: int) -> list[tuple[Any, ...]]:
    told = [tuple(row[name] for name in EXACT) for row in events if row["action"] != "snapshot"]
    return told[len(told) - last :]


def live(trace: Trace, device: str, seq: int, end: str = "release_seq") -> set[tuple[int, ...]]:
    return {
        (row["address"], row["size_bytes"], row["block_bytes"])
        for row in trace.allocations.to_pylist()
        if row["device"] == device
        and row["alloc_seq"] <= seq
        and (row[end] is None or row[end] > seq)
    }


@pytest.mark.parametrize("kept", KEPT)
def test_every_event_has_the_same_totals(run: Recording, kept: int | None, tmp_path: Path) -> None:
    snapshot = snapshot_of(run, kept)
    trace = imported(snapshot, tmp_path)
    process = trace.processes.to_pylist()[0]
    assert process["reconciled"] is True, process["reconcile_note"]
    assert process["lost_total"] == 0
    for device in devices(run):
        name = f"cuda:{device}"
        number = sum(e["action"] != "snapshot" for e in snapshot["device_traces"][device])
        ours = events_of(run, device)
        theirs = [row for row in trace.events.to_pylist() if row["device"] == name]
        assert rows(theirs, number) == rows(ours, number)
        if ours:
            at_end = live(trace, name, theirs[-1]["seq"])
            assert at_end == live(run.trace, name, ours[-1]["seq"])


def test_the_same_peak_and_who_is_live_there(run: Recording, tmp_path: Path) -> None:
    trace = imported(snapshot_of(run, None), tmp_path)
    for device in devices(run):
        name, ours = f"cuda:{device}", events_of(run, device)
        theirs = [row for row in trace.events.to_pylist() if row["device"] == name]
        for of in ("allocated", "active", "reserved") if ours else ():
            peaks = [max(e, key=lambda row: row[f"{of}_bytes"]) for e in (ours, theirs)]
            assert peaks[0][f"{of}_bytes"] == peaks[1][f"{of}_bytes"]
            end = "free_seq" if of == "allocated" else "release_seq"
            at_ours = live(run.trace, name, peaks[0]["seq"], end)
            assert live(trace, name, peaks[1]["seq"], end) == at_ours


def test_our_own_export_gives_it_too(run: Recording, tmp_path: Path) -> None:
    viz = memory_viz.load()
    trace = imported(snapshot_of(run, 30), tmp_path)
    path = tmp_path / "again.pickle"
    with path.open("wb") as out:
        write_snapshot(trace, Selection(), out)
    again = pickle.loads(path.read_bytes())
    theirs = {"segments": run.torch["segments"]}
    assert viz.segsum(again) == viz.segsum(theirs)
    second = open_trace(import_file(path, str(tmp_path / "again.memtrace")).path)
    for device in devices(run):
        name = f"cuda:{device}"
        first, last = (
            [row for row in t.events.to_pylist() if row["device"] == name] for t in (trace, second)
        )
        assert rows(last, 30) == rows(first, 30)


PROGRAM = """
    import sys, torch
    torch.cuda.memory._record_memory_history(max_entries={entries}, stacks="{stacks}")

    def make(number):
        return torch.empty(number * 300_000, device="cuda")

    kept = []
    for number in range(1, 12):
        kept.append(make(number))
        if number % 3 == 0:
            del kept[0]
        torch.relu(kept[-1])
    try:
        torch.empty(10**12, device="cuda")
    except torch.OutOfMemoryError:
        pass
    torch.cuda.memory._dump_snapshot(sys.argv[1])
"""


@pytest.mark.parametrize(("entries", "stacks"), [(100_000, "python"), (25, "python"), (25, "all")])
def test_what_torch_itself_dumps(entries: int, stacks: str, tmp_path: Path) -> None:
    program, dumped = tmp_path / "program.py", tmp_path / "dump.pickle"
    program.write_text(textwrap.dedent(PROGRAM.format(entries=entries, stacks=stacks)))
    env = simcuda.environment(simcuda.Machine(memory_mb=1024))
    argv = [sys.executable, "-m", "memtrace", "run", "--quiet", "-o", str(tmp_path / "t.memtrace")]
    done = subprocess.run(
        [*argv, str(program), str(dumped)], env={**os.environ, **env}, capture_output=True,
        text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    ours = open_trace(tmp_path / "t.memtrace")
    theirs = open_trace(import_file(dumped, str(tmp_path / "i.memtrace")).path)
    failed = [row for row in theirs.events.to_pylist() if row["action"] == "oom"]
    assert [row["size_bytes"] for row in failed] == [4 * 10**12]
    ours_at = next(row["seq"] for row in ours.events.to_pylist() if row["action"] == "oom")
    assert live(theirs, "cuda:0", failed[0]["seq"]) == live(ours, "cuda:0", ours_at)
    lines = {row["source"] for row in theirs.allocations.to_pylist() if not row["free_seq"]}
    assert "program.py:6 make" in lines
    operators = {row["operator"] for row in theirs.allocations.to_pylist()}
    assert ("aten::empty" in operators) == (stacks == "all")
    if entries > 1000:
        assert theirs.peak("cuda:0").total_bytes == ours.peak("cuda:0").total_bytes
    assert theirs.processes.to_pylist()[0]["reconciled"] is True
