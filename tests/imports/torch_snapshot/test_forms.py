"""Every form that torch has written gives the same memory, and says what it lacks."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from imports.torch_snapshot import golden
from imports.torch_snapshot.conftest import Import

WITH_EVENTS = [name for name in golden.FORMS if name not in ("torch-1.12", "torch-1.13")]
WITH_FRAMES = [name for name in golden.FORMS if name != "torch-1.12"]


def process(trace: Any) -> dict[str, Any]:
    row: dict[str, Any] = trace.processes.to_pylist()[0]
    return row


def test_the_golden_files_are_what_their_script_makes() -> None:
    found = {path.stem: path.read_bytes() for path in golden.FOLDER.glob("*.pickle")}
    values = {name: pickle.loads(data) for name, data in found.items()}
    assert values == {name: value for name, (_, value) in golden.FORMS.items()}
    assert {name: data[1] for name, data in found.items()} == {
        name: protocol for name, (protocol, _) in golden.FORMS.items()
    }


@pytest.mark.parametrize("name", golden.FORMS)
def test_what_was_live_at_the_end(imported: Import, name: str) -> None:
    trace = imported((golden.FOLDER / f"{name}.pickle").read_bytes())
    (live,) = [row for row in trace.allocations.to_pylist() if row["free_seq"] is None]
    assert live["address"] == golden.SMALL
    assert live["block_bytes"] == golden.WEIGHT_BLOCK
    known = name != "torch-1.12"  # which tells blocks, and not what was asked for
    assert live["size_bytes"] == (golden.WEIGHT_BYTES if known else golden.WEIGHT_BLOCK)
    assert live["source"] == ("model.py:12 build" if known else None)
    last = trace.events.to_pylist()[-1]
    assert last["allocated_bytes"] == last["active_bytes"] == golden.WEIGHT_BLOCK
    assert last["reserved_bytes"] == 22 * golden.MIB
    assert process(trace)["reconciled"] is True
    assert process(trace)["lost_total"] == 0


@pytest.mark.parametrize("name", WITH_EVENTS)
def test_the_peak_of_the_events(imported: Import, name: str) -> None:
    trace = imported((golden.FOLDER / f"{name}.pickle").read_bytes())
    peak = trace.peak("cuda:0")
    assert peak.total_bytes == golden.WEIGHT_BLOCK + golden.ACTIVATION_BLOCK
    activation = next(r for r in trace.allocations.to_pylist() if r["address"] == golden.LARGE)
    assert activation["size_bytes"] == golden.ACTIVATION_BYTES
    assert activation["source"] == "model.py:20 forward"
    assert activation["release_seq"] is not None


def test_operators_that_cpp_frames_name(imported: Import) -> None:
    trace = imported(golden.FORMS["torch-2.6"][1])
    activation = next(r for r in trace.allocations.to_pylist() if r["address"] == golden.LARGE)
    assert activation["operator"] == "aten::mm", "not the factory, nor the outermost"
    assert activation["top_operator"] == "aten::linear"
    functions = trace.stacks.column("function").to_pylist()
    assert set(functions) == {"build", "<module>", "forward"}, "no frame of C++"


def test_times_stages_and_failures(imported: Import) -> None:
    trace = imported(golden.FORMS["torch-2.6"][1])
    events = trace.events.to_pylist()
    assert [row["time_ns"] - events[0]["time_ns"] for row in events[:3]] == [0, 10_000, 20_000]
    start_ns = process(trace)["clock_origin_unix_ns"] + events[0]["time_ns"]
    assert start_ns == golden.T0 * 1000
    (stage,) = trace.stages.to_pylist()
    assert stage["name"] == "## forward ##"
    assert stage["end_time_ns"] - stage["start_time_ns"] == 30_000
    (failed,) = [row for row in events if row["action"] == "oom"]
    assert failed["size_bytes"] == 1 << 40
    assert failed["device_free_bytes"] == 77
    assert failed["address"] is None


@pytest.mark.parametrize(
    ("name", "lacks"),
    [
        ("torch-1.12", "stacks, modules, operators, threads, steps, events"),
        ("torch-1.13", "modules, operators, threads, steps, events"),
        ("torch-2.0", "times (the order of events stands for them)"),
        ("torch-2.6", "lacks modules, threads, steps"),
    ],
)
def test_what_is_missing_is_said(imported: Import, name: str, lacks: str) -> None:
    assert lacks in process(imported(golden.FORMS[name][1]))["hook_error"]


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_of_pickle(imported: Import, protocol: int) -> None:
    trace = imported(golden.FORMS["torch-2.6"][1], protocol=protocol)
    assert trace.peak("cuda:0").total_bytes == golden.WEIGHT_BLOCK + golden.ACTIVATION_BLOCK


def test_pools_and_devices(imported: Import) -> None:
    first = golden.segments("frames")
    second = [{**segment, "device": 2} for segment in golden.segments("frames")]
    second[1]["segment_pool_id"] = (0, 7)
    second[0]["segment_pool_id"] = (3, 0)
    events = golden.trace(frames=golden.ACTIVATION_FRAMES, timed=True)
    trace = imported({"segments": first + second, "device_traces": [events, [], events]})
    assert trace.devices == ["cuda:0", "cuda:2"]
    pools = {(r["device"], r["address"]): r["pool"] for r in trace.allocations.to_pylist()}
    assert pools == {
        ("cuda:0", golden.SMALL): "default",
        ("cuda:0", golden.LARGE): "default",
        ("cuda:2", golden.SMALL): "graph:3",
        ("cuda:2", golden.LARGE): "mempool:7",
    }
    assert process(trace)["reconciled"] is True


def test_events_of_unknown_kinds_are_counted(imported: Import) -> None:
    events = golden.trace(frames=golden.ACTIVATION_FRAMES)
    events.insert(2, {"action": "user_defined", "addr": 1, "size": 2})
    trace = imported({"segments": golden.segments("frames"), "device_traces": [events]})
    assert "1 events of unknown kinds were left out" in process(trace)["hook_error"]
    assert trace.peak("cuda:0").total_bytes == golden.WEIGHT_BLOCK + golden.ACTIVATION_BLOCK


def test_a_clock_that_begins_at_its_first_event(imported: Import) -> None:
    """Nothing was before the clock's own beginning."""
    value = pickle.loads(golden.pickled("torch-2.6"))
    for events in value["device_traces"]:
        for event in events:
            event["time_us"] -= golden.T0 - 1
    row = process(imported(value))
    assert row["lost_total"] == 0
    assert row["reconciled"] is True
