"""Chrome's trace event format: what its readers ask of each event, and what the events say."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

import memtrace
from memtrace.export import chrome
from memtrace.export.chrome import write_chrome
from memtrace.outputs import Selection
from memtrace.trace import Trace
from trace_builder import TraceBuilder, serving_trace

#: What the format's description asks of each phase, beside name, ph, pid, tid and ts.
NEEDED = {
    "M": {"args"},
    "C": {"args"},
    "b": {"id", "cat"},
    "e": {"id", "cat"},
    "X": {"dur"},
    "i": {"s"},
}


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    return memtrace.open(serving_trace(tmp_path / "t.memtrace"))


def events(trace: Trace, **selection: Any) -> list[dict[str, Any]]:
    out = io.BytesIO()
    write_chrome(trace, Selection(**selection), out)
    read: list[dict[str, Any]] = json.loads(out.getvalue())["traceEvents"]
    return read


def test_every_event_has_what_its_phase_needs(trace: Trace) -> None:
    found = events(trace)
    assert {event["ph"] for event in found} >= {"M", "C", "b", "e"}
    for event in found:
        assert {"name", "ph", "pid", "tid", "ts"} | NEEDED[event["ph"]] <= set(event)
        assert event["ts"] >= 0
    begins = sorted((e["cat"], e["id"], e["name"]) for e in found if e["ph"] == "b")
    assert begins == sorted((e["cat"], e["id"], e["name"]) for e in found if e["ph"] == "e")


def test_the_counters_are_the_devices_totals(trace: Trace) -> None:
    counters = [e for e in events(trace) if e["name"] == "cuda:0 allocated"]
    found = {(round(e["ts"] * 1000), e["args"]["bytes"]) for e in counters}
    rows = [row for row in trace.events.to_pylist() if row["device"] == "cuda:0"]
    assert found == {(row["time_ns"], row["allocated_bytes"]) for row in rows}


def test_with_more_events_than_bins_the_peak_stays(
    trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chrome, "MOST_BINS", 4)
    counters = [e for e in events(trace) if e["name"] == "cuda:0 allocated"]
    assert len(counters) < len(trace.events)
    assert max(e["args"]["bytes"] for e in counters) == trace.peak("cuda:0").total_bytes


def test_calls_are_slices_of_their_threads(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "t.memtrace")
    p = builder.process()
    with p.call("aten::mm", module="h.0"):
        p.alloc("cpu", 10)
    found = events(memtrace.open(builder.write()))
    (call,) = [event for event in found if event["ph"] == "X"]
    assert (call["name"], call["tid"], call["args"]["module"]) == ("aten::mm", 1, "h.0")
    (named,) = [event for event in found if event["name"] == "thread_name"]
    assert named["args"]["name"] == "operators of thread 1"
    (counter,) = [event for event in found if event["ph"] == "C"]
    assert call["ts"] < counter["ts"] < call["ts"] + call["dur"]


def test_a_window(trace: Trace) -> None:
    everything = [e["ts"] for e in events(trace) if e["ph"] in "Cbe"]
    start, end = (min(everything) + max(everything)) / 3, max(everything) / 2
    found = events(trace, window_ns=(int(start * 1000), int(end * 1000)))
    times = [event["ts"] for event in found if event["ph"] in "Cbe"]
    assert times
    assert min(times) >= int(start * 1000) / 1000
    assert max(times) <= end


def test_processes_are_on_one_clock(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "t.memtrace")
    builder.process(pid=1).alloc("cpu", 1)
    late = builder.process(pid=2)
    late.row["clock_origin_ns"] += 5_000_000
    late.alloc("cpu", 1)
    found = {e["pid"]: e["ts"] for e in events(memtrace.open(builder.write())) if e["ph"] == "C"}
    assert found[2] - found[1] == 5000
