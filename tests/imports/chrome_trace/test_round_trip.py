"""Our own export, imported again: the same totals at every event, by the same operators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import memtrace
from imports.chrome_trace.profiled import train
from imports.torch_snapshot.golden import pickled
from memtrace.export.chrome import write_chrome
from memtrace.imports.importing import import_file
from memtrace.outputs import Selection
from memtrace.trace import Trace, open_trace


def again(trace: Trace, folder: Path, **selection: Any) -> Trace:
    path = folder / "x.chrome.json"
    with path.open("wb") as out:
        write_chrome(trace, Selection(**selection), out)
    return open_trace(import_file(path, str(folder / "again.memtrace")).path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    path = tmp_path_factory.mktemp("recorded") / "t.memtrace"
    with memtrace.record(str(path)):
        train("cpu")
    return open_trace(path)


def totals(trace: Trace, device: str) -> list[int]:
    """After each event that changed them, from the first on."""
    found, last = [], None
    for row in trace.events.to_pylist():
        if row["device"] == device and row["allocated_bytes"] != last:
            last = row["allocated_bytes"]
            found.append(last)
    return found


def test_a_recording(trained: Trace, tmp_path: Path) -> None:
    trace = again(trained, tmp_path)
    assert totals(trace, "cpu") == totals(trained, "cpu")
    assert trace.peak("cpu").total_bytes == trained.peak("cpu").total_bytes
    ours, theirs = (
        sorted(t.allocations.to_pylist(), key=lambda row: row["alloc_seq"])
        for t in (trained, trace)
    )
    for column in ("size_bytes", "operator", "top_operator"):
        assert [row[column] for row in theirs] == [row[column] for row in ours]
    late = ("backward", "optimizer")  # a forward is told by modules and numbers, which are lost
    phases = [[row["phase"] in late and row["phase"] for row in rows] for rows in (ours, theirs)]
    assert phases[0] == phases[1]


def test_cuda_with_what_is_reserved(tmp_path: Path) -> None:
    snapshot = tmp_path / "s.pickle"
    snapshot.write_bytes(pickled("torch-2.6"))
    first = open_trace(import_file(snapshot, str(tmp_path / "s.memtrace")).path)
    trace = again(first, tmp_path)
    assert trace.devices == first.devices == ["cuda:0"]
    assert totals(trace, "cuda:0") == totals(first, "cuda:0")[1:], "but of the first segment"
    for of in ("allocated", "reserved"):
        assert trace.peak("cuda:0", of).total_bytes == first.peak("cuda:0", of).total_bytes


def test_a_window_begins_with_what_was_there(trained: Trace, tmp_path: Path) -> None:
    rows = trained.events.to_pylist()
    middle = len(rows) // 2
    trace = again(trained, tmp_path, window_ns=(rows[middle]["time_ns"], 1 << 60))
    (process,) = trace.process_list
    assert process.row["hook_error"].count("from before the profile") >= 1
    kept = [row for row in trace.events.to_pylist() if row["action"] != "preexisting"]
    assert [row["allocated_bytes"] for row in kept] == [
        row["allocated_bytes"] for row in rows[middle:]
    ]
