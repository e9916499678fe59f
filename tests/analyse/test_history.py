"""A history: instants by name, sums that agree with live sets, and what a window leaves of it."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memtrace.analyse.counters import Moment
from memtrace.analyse.history import DeviceHistory, History, Limits, live_bytes, read_history
from memtrace.analyse.instants import MOST_OOMS
from memtrace.analyse.layers import MOST_LAYERS
from memtrace.analyse.live_set import live_allocations
from memtrace.trace import Trace, open_trace
from trace_builder import TraceBuilder, failing_trace, serving_trace


def history_of(trace: Trace, **options: object) -> History:
    process = trace.process_list[0]
    limits = options.pop("limits", Limits())
    devices = trace.devices_by_process[process.key]
    history = read_history(trace, process, devices, limits, **options)  # type: ignore[arg-type]
    assert history is not None
    return history


def live_at(trace: Trace, device: str, seq: int) -> int:
    key = trace.process_list[0].key
    moment = Moment(key, device, seq, 0, "", None, None, None, 0, 0, 0)
    rows = live_allocations(trace, moment, of="allocated", columns=["allocation_id"])
    return sum(rows.column("bytes").to_pylist())


@pytest.mark.parametrize("make", [serving_trace, failing_trace])
@pytest.mark.parametrize("limits", [Limits(), Limits(bins=8, spans=20, rows=10)])
def test_every_cut_agrees_with_the_live_set(tmp_path: Path, make: object, limits: Limits) -> None:
    trace = open_trace(make(tmp_path / "x.memtrace"))  # type: ignore[operator]
    for device in history_of(trace, limits=limits).devices:
        cuts = device.lifespans.cuts
        for cut, live in enumerate(live_bytes(device.lifespans).tolist()):
            assert live == live_at(trace, device.device, int(cuts.seq[cut]))
            assert live == device.allocated_bytes[cut]
        assert not device.unmatched_bytes.any()


def instants_of(device: DeviceHistory) -> list[tuple[str, str, int | None]]:
    found = sorted(device.instants.chosen, key=lambda instant: (instant.seq, instant.kind))
    return [(instant.kind, instant.name, instant.number) for instant in found]


def test_the_instants_of_a_server(tmp_path: Path) -> None:
    history = history_of(open_trace(serving_trace(tmp_path / "x.memtrace")))
    gpu = history.devices[0]
    assert gpu.device == "cuda:0"
    kinds = {kind for kind, _, _ in instants_of(gpu)}
    assert kinds == {"peak", "reserved_peak", "stage_peak", "stage_end", "last"}
    assert ("stage_end", "load", None) in instants_of(gpu)
    peak = gpu.instants.chosen[0]
    assert (peak.kind, gpu.curve.most_bytes.max()) == ("peak", live_at_peak(gpu))


def live_at_peak(device: DeviceHistory) -> int:
    return int(
        device.allocated_bytes[device.lifespans.cuts.seq == device.instants.chosen[0].seq][0]
    )


def test_failed_requests_and_steps_are_instants(tmp_path: Path) -> None:
    history = history_of(open_trace(failing_trace(tmp_path / "x.memtrace")))
    gpu = history.devices[0]
    ooms = [number for kind, _, number in instants_of(gpu) if kind == "oom"]
    assert ooms == [1, 2]
    steps = [number for kind, _, number in instants_of(gpu) if kind == "step_end"]
    assert steps == list(range(12))
    assert gpu.instants.totals == {"oom": 2, "stage_end": 0, "step_end": 12}


def test_of_many_steps_the_first_the_last_and_the_largest(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    p = builder.process()
    for number in range(100):
        with p.step():
            p.free(p.alloc("cpu", 1000 + (5000 if number in (41, 77) else 0)))
    gpu = history_of(open_trace(builder.write())).devices[0]
    told = [number for kind, _, number in instants_of(gpu) if kind == "step_end"]
    assert len(told) == 32
    assert {1, 42, 78, 100} <= set(told)
    assert gpu.instants.totals["step_end"] == 100


def test_a_window_begins_with_what_was_live(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    p = builder.process()
    first = p.alloc("cpu", 100)
    p.alloc("cpu", 10)
    p.free(first)
    p.alloc("cpu", 1)
    p.alloc("cpu", 7)
    trace = open_trace(builder.write())
    (cpu,) = history_of(trace, window_ns=(3_000, 4_000)).devices
    assert live_bytes(cpu.lifespans).tolist()[0] == 110
    assert live_bytes(cpu.lifespans).tolist()[-1] == 11
    assert cpu.curve.most_bytes.max() == 110
    assert sorted(cpu.rows.column("size_bytes").to_pylist()) == [1, 10, 100]
    key = trace.process_list[0]
    assert read_history(trace, key, ["cpu"], Limits(), window_ns=(90_000, 91_000)) is None


def test_lost_frees_are_told_as_unmatched(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    p = builder.process()
    p.alloc("cpu", 100)
    p.alloc("cpu", 50)
    p.rows["allocations"].pop()
    (cpu,) = history_of(open_trace(builder.write())).devices
    assert cpu.unmatched_bytes.tolist()[-1] == 50


Moves = st.lists(
    st.tuples(
        st.sampled_from(["alloc", "free", "hold", "release", "external", "step"]),
        st.sampled_from(["cpu", "cuda:0"]),
        st.integers(1, 5000),
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(Moves, st.sampled_from([Limits(), Limits(bins=8, spans=20, rows=10)]))
def test_any_program_agrees_with_its_live_sets(
    moves: list[tuple[str, str, int]], limits: Limits
) -> None:
    with TemporaryDirectory() as folder:
        trace = open_trace(any_trace(Path(folder) / "x.memtrace", moves))
        if not trace.devices:
            return
        for device in history_of(trace, limits=limits).devices:
            cuts = device.lifespans.cuts
            shown = {int(seq) for seq in device.listing.instants}
            for cut, live in enumerate(live_bytes(device.lifespans).tolist()):
                seq = int(cuts.seq[cut])
                assert live == live_at(trace, device.device, seq) == device.allocated_bytes[cut]
                if device.listing.large_bytes == 0 or (
                    seq in shown and not device.listing.floor_bytes
                ):
                    assert listed_at(device, seq) == live
            assert max(device.allocated_bytes) == device.curve.most_bytes.max()


def any_trace(path: Path, moves: list[tuple[str, str, int]]) -> Path:
    builder = TraceBuilder(path)
    p = builder.process()
    live: list[dict[str, Any]] = []
    waiting: list[dict[str, Any]] = []
    for what, device, number in moves:
        own = [row for row in live if row["device"] == device]
        if what in ("alloc", "external"):
            live.append(p.alloc(device, number, action=what, module=f"m.{number % 3}"))
        elif what == "step":
            p.short_step()
        elif what == "release" and waiting:
            p.release(waiting.pop(number % len(waiting)))
        elif what in ("free", "hold") and own:
            row = own[number % len(own)]
            live.remove(row)
            p.free(row, hold=what == "hold")
            if what == "hold" and device != "cpu" and row["origin"] != "external":
                waiting.append(row)
    return builder.write()


def listed_at(device: DeviceHistory, seq: int) -> int:
    return sum(
        row["bytes"]
        for row in device.rows.to_pylist()
        if row["alloc_seq"] <= seq and (row["free_seq"] is None or row["free_seq"] > seq)
    )


def test_layers_beyond_the_named_ones_are_one(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    for place in range(MOST_LAYERS + 6):
        process.alloc("cpu", 1000 + place, module=f"m.{place}")
    (device,) = history_of(open_trace(builder.write())).devices
    modules = device.layers["module"]
    assert (len(modules.names), modules.others) == (MOST_LAYERS, 6)
    # Those that came last held least over time.
    assert modules.size_bytes[-1, -1] == sum(1000 + MOST_LAYERS + place for place in range(6))
    assert modules.size_bytes[:, -1].sum() == device.allocated_bytes[-1]


def test_of_too_many_failures_the_last_are_instants(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    process.alloc("cuda:0", 512)
    for _ in range(MOST_OOMS + 3):
        process.oom("cuda:0", 1 << 40, 0)
    process.alloc("cuda:0", 512)
    (device,) = history_of(open_trace(builder.write())).devices
    numbers = sorted(number or 0 for kind, _, number in instants_of(device) if kind == "oom")
    assert numbers == list(range(4, MOST_OOMS + 4))
    assert device.instants.totals["oom"] == MOST_OOMS + 3


def test_a_stage_that_ends_after_the_last_event_is_told_by_it(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    with process.stage("load"):
        process.alloc("cuda:0", 512)
        for _ in range(5):
            process.alloc("cpu", 100)
    found = {device.device: device for device in history_of(open_trace(builder.write())).devices}
    (end,) = [i for i in found["cuda:0"].instants.chosen if i.kind == "stage_end"]
    assert end.seq == int(found["cuda:0"].curve.last_seq[-1])
