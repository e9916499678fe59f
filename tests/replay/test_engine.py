"""Replays from Python: verified, under other settings, on other devices; what is said of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from memtrace.errors import MemtraceError
from memtrace.replay.conf import parse_conf
from memtrace.replay.device import Device, recorded_device
from memtrace.replay.engine import Replayer, asked_by, replay, serve, verify
from memtrace.replay.least_capacity import least_capacity
from memtrace.replay.requests import Requests, read_requests
from memtrace.replay.stream import native_stream
from memtrace.replay.sweep import sweep
from memtrace.trace import open_trace
from replay.made_up import (
    BASE,
    MIB,
    OUTSIDE_BYTES,
    TOTAL_BYTES,
    alloc,
    device_row,
    segment,
    settings,
    training,
)
from trace_builder import TraceBuilder, serving_trace


@pytest.fixture
def requests(tmp_path: Path) -> Requests:
    return read_requests(open_trace(training(tmp_path / "t.memtrace")))


def test_a_recording_is_verified(requests: Requests) -> None:
    found = replay(requests)
    assert found.verification is not None
    assert found.verification.divergence is None
    assert found.verification.compared == 3
    assert found.as_recorded
    assert found.completes
    assert found.caveats == ()
    low, high = found.peak("reserved")
    assert low == high
    assert high.total_bytes == 90 * MIB
    assert high.place == 12
    assert found.peak("allocated")[1].total_bytes == 40 * MIB
    (run,) = found.runs
    assert run.segments == 3
    assert run.unused_bytes == 50 * MIB
    assert run.largest_unused_bytes == 30 * MIB


def test_where_a_replay_leaves_the_recording_it_says_so(tmp_path: Path) -> None:
    path = training(tmp_path / "t.memtrace", moved=512)
    found = replay(read_requests(open_trace(path)))
    assert found.verification is not None
    divergence = found.verification.divergence
    assert divergence is not None
    assert divergence.place == 12
    assert divergence.predicted is None
    assert not found.as_recorded
    assert "reproduced only up to event 12 (3 segment events)" in found.caveats[0]
    # Also an event with the driver that is another.
    trace = open_trace(training(tmp_path / "u.memtrace"))
    requests = read_requests(trace)
    stream = native_stream(requests, recorded=True)
    outcome = stream.native.replay(
        addresses="recorded", total_bytes=TOTAL_BYTES,
        first_settings=parse_conf("large_segment_size_mb:64").settings_text(),
        settings=[parse_conf("large_segment_size_mb:64").settings_text()],
        capacity_bytes=TOTAL_BYTES,
    )  # fmt: skip
    assert outcome["divergence"]["predicted"][:3] == ("segment_alloc", BASE + 64 * MIB, 64 * MIB)
    assert outcome["divergence"]["recorded"][:3] == ("segment_alloc", BASE + 64 * MIB, 20 * MIB)


def test_other_settings(requests: Requests) -> None:
    found = replay(requests, conf=parse_conf("large_segment_size_mb:64"))
    # The last 40 MiB find room where the small ones lay.
    assert [peak.total_bytes for peak in found.peak("reserved")] == [94 * MIB] * 2
    assert len(found.runs) == 2
    # Expandable segments: the last 40 MiB go where the first 30 lay, and after it.
    found = replay(requests, conf=parse_conf("expandable_segments:True"))
    assert [peak.total_bytes for peak in found.peak("reserved")] == [40 * MIB] * 2


def test_a_smaller_device_and_who_fails_on_it(requests: Requests) -> None:
    found = replay(requests, device=recorded_device(requests, of_size=51 * MIB))
    assert not found.completes
    failed = found.first_failed
    assert failed is not None
    assert failed.row == 1
    assert failed.size_bytes == 3 * MIB
    told = asked_by(requests, failed)
    assert told is not None
    assert (told.operator, told.module, told.source) == (
        "aten::add", "h.0", "model.py:88 forward",
    )  # fmt: skip
    assert [frame.function for frame in told.stack] == ["forward", "main"]
    assert all(run.retries == 1 for run in found.runs)
    # 62 MiB hold 30 and 20 at once; the last 40 only after all is given back.
    found = replay(requests, device=recorded_device(requests, of_size=62 * MIB))
    assert found.completes
    assert {run.retries for run in found.runs} == {1}


def test_a_memory_fraction(requests: Requests) -> None:
    found = replay(requests, memory_fraction=0.05)
    assert found.first_failed is not None
    assert found.first_failed.row == 0
    conf = parse_conf("per_process_memory_fraction:0.05")
    assert not replay(requests, conf=conf).completes


def test_changed_requests_are_not_verified(requests: Requests) -> None:
    found = replay(requests.resized(requests.size_bytes * 2))
    assert found.verification is None
    assert found.peak("allocated")[1].total_bytes == 80 * MIB
    with pytest.raises(ValueError, match="no recorded addresses"):
        verify(requests.resized(requests.size_bytes * 2))


def test_all_curves_of_the_requests(requests: Requests) -> None:
    outcome = serve(requests)
    events = requests.trace.events.to_pylist()
    recorded = {row["seq"]: row for row in events}
    kinds = ("alloc", "free_requested", "free_completed")
    by_place = dict(zip(outcome.places, range(len(outcome.places)), strict=True))
    for of in ("allocated", "active", "reserved"):
        for row in events:
            if row["action"] in kinds:
                at = by_place[float(row["seq"])]
                assert outcome.curves[of][at] == recorded[row["seq"]][f"{of}_bytes"]
    assert outcome.block_bytes.tolist() == [30 * MIB, 3 * MIB, 3 * MIB, 40 * MIB]
    assert outcome.peak("reserved").total_bytes == 90 * MIB
    assert sum(outcome.held(12.0)["bytes"].to_pylist()) == 40 * MIB


def test_curves_end_where_a_request_fails(requests: Requests) -> None:
    outcome = serve(requests, device=recorded_device(requests, of_size=51 * MIB))
    assert [failure.asked_bytes for failure in outcome.failures] == [3 * MIB]
    assert outcome.places[-1] == outcome.failures[0].place
    assert len(outcome.curves["reserved"]) == len(outcome.places)
    assert outcome.block_bytes.tolist() == [30 * MIB, 0, 0, 0]


def test_the_cpu_has_nothing_to_replay(tmp_path: Path) -> None:
    trace = open_trace(serving_trace(tmp_path / "s.memtrace"))
    requests = read_requests(trace, device="cpu")
    for ask in (replay, Replayer, sweep, least_capacity):
        with pytest.raises(MemtraceError, match="the CPU has no caching allocator to replay"):
            ask(requests)
    assert serve(requests).peak().total_bytes == 3 * MIB


def test_what_others_hold_of_the_device(requests: Requests, tmp_path: Path) -> None:
    assert recorded_device(requests) == Device(TOTAL_BYTES, OUTSIDE_BYTES, True)
    assert recorded_device(requests).capacity_bytes == TOTAL_BYTES - OUTSIDE_BYTES
    builder = TraceBuilder(tmp_path / "f.memtrace")
    p = builder.process(devices=device_row())
    segment(p, BASE, 30 * MIB)
    alloc(p, BASE, 30 * MIB)
    p.oom("cuda:0", 470 * MIB, 462 * MIB)
    failing = read_requests(open_trace(builder.write()))
    assert recorded_device(failing) == Device(TOTAL_BYTES, 20 * MIB, True)
    builder = TraceBuilder(tmp_path / "n.memtrace")
    p = builder.process(devices="[]")
    alloc(p, BASE, 30 * MIB)
    unknown = read_requests(open_trace(builder.write()))
    with pytest.raises(MemtraceError, match="give --capacity"):
        recorded_device(unknown)
    assert recorded_device(unknown, of_size=MIB) == Device(MIB, 0, False)
    with pytest.raises(MemtraceError, match="give --capacity"):
        replay(unknown)
    for size, completes in ((100 * MIB, True), (20 * MIB, False)):
        found = replay(unknown, device=recorded_device(unknown, of_size=size))
        assert found.verification is not None
        assert found.completes is completes


def test_failures_of_the_recording(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "f.memtrace")
    p = builder.process(devices=device_row())
    segment(p, BASE, 30 * MIB)
    alloc(p, BASE, 30 * MIB)
    p.oom("cuda:0", 490 * MIB, 470 * MIB, stream=0)
    segment(p, BASE + 64 * MIB, 20 * MIB)
    alloc(p, BASE + 64 * MIB, 3 * MIB)
    requests = read_requests(open_trace(builder.write()))
    (run,) = replay(requests).runs
    assert run.repeated_failures == 1
    assert run.completes
    found = replay(requests, device=recorded_device(requests, of_size=1024 * MIB))
    assert [one.size_bytes for one in found.runs[0].passed] == [490 * MIB]
    assert asked_by(requests, found.runs[0].passed[0]) is None
    assert found.peak("reserved")[1].total_bytes == 520 * MIB
    assert any("1 allocation failed in the recording" in line for line in found.caveats)


def test_what_makes_it_inexact_is_told(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "c.memtrace")
    p = builder.process(devices=device_row())
    p.mark("settings", text=settings("max_split_size_mb:64", max_split_size=64 * MIB))
    p.segment("cuda:0", 40 * MIB, address=BASE, pool="default", small=False, expandable=False)
    alloc(p, BASE, 10 * MIB, action="preexisting")
    waits = alloc(p, BASE + 10 * MIB, 10 * MIB, thread_id=2)
    p.mark("settings", text=settings("max_split_size_mb:32", max_split_size=32 * MIB))
    p.free(waits, hold=True)
    alloc(p, BASE + 20 * MIB, 10 * MIB)
    p.release(waits)
    requests = read_requests(open_trace(builder.write()))
    assert verify(requests).divergence is None
    found = replay(requests, conf=parse_conf("expandable_segments:True"))
    text = "\n".join(found.caveats)
    assert "2 threads allocate on cuda:0" in text
    assert "the program changes the allocator's settings itself, 1 time" in text
    assert "the recording began in mid-run" in text
    assert "1 free waited for other streams" in text
    assert "what of the device is not torch's is not known" in text


def test_settings_that_the_program_makes_itself_hold(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "s.memtrace")
    p = builder.process(devices=device_row())
    p.mark("settings", text=settings("max_split_size_mb:64", max_split_size=64 * MIB))
    p.mark("memory_fraction", text=json.dumps({"fraction": 0.5, "device": 0}), device="cuda:0")
    segment(p, BASE, 20 * MIB)
    alloc(p, BASE, 3 * MIB)
    p.mark("settings", text=settings("large_segment_size_mb:64", large_segment_size=64 * MIB))
    segment(p, BASE + 64 * MIB, 64 * MIB)
    alloc(p, BASE + 64 * MIB, 9 * MIB, pool="mempool:1")
    requests = read_requests(open_trace(builder.write()))
    assert verify(requests).divergence is None
    found = replay(requests, conf=parse_conf("large_segment_size_mb:30"))
    assert found.peak("reserved")[1].total_bytes == 94 * MIB
    # Half the device.
    device = Device(160 * MIB, 0, True)
    assert Replayer(requests).run(device=device).failed[0].row == 1
    assert not Replayer(requests).run(device=device, memory_fraction=1.0).failed


def test_a_graphs_pool_is_named_by_the_end_of_its_capture(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "g.memtrace")
    p = builder.process(devices=device_row())
    p.mark("capture_begin", device="cuda:0")
    segment(p, BASE, 30 * MIB)
    block = alloc(p, BASE, 30 * MIB, pool="graph:1")
    p.free(block)
    p.mark("capture_end", device="cuda:0", pool="graph:1")
    p.mark("empty_cache")  # the graph still uses it
    segment(p, BASE + 64 * MIB, 32 * MIB)
    alloc(p, BASE + 64 * MIB, 32 * MIB)
    p.mark("pool_unref", device="cuda:0", pool="graph:1")
    p.mark("empty_cache")
    p.unsegment({"device": "cuda:0", "size_bytes": 30 * MIB, "address": BASE})
    p.rows["events"][-1]["stream"] = 0
    requests = read_requests(open_trace(builder.write()))
    found = verify(requests)
    assert found.divergence is None
    assert found.compared == 3


def test_the_settings_that_reserve_least_are_recommended(requests: Requests) -> None:
    found = sweep(requests)
    assert found.best is not None
    assert found.best.conf is not None
    assert found.best.conf.text == "expandable_segments:True"
    assert found.best.reserved_bytes == 40 * MIB
    assert found.saved_bytes == 50 * MIB
    assert found.own.reserved_bytes == 90 * MIB
    only = sweep(requests, confs=("large_segment_size_mb:64",))
    assert only.best is None
    assert only.saved_bytes == 0
    # Where the own settings fail, what completes is better, whatever it reserves.
    tight = sweep(requests, device=recorded_device(requests, of_size=55 * MIB))
    assert not tight.own.completes
    assert tight.best is not None
    assert tight.best.completes


def test_the_least_device(requests: Requests) -> None:
    found = least_capacity(requests)
    assert found.low.total_bytes == found.high.total_bytes == 62 * MIB
    assert found.high.fails is not None
    assert found.high.fails.row == 1
    assert replay(requests, device=recorded_device(requests, of_size=62 * MIB)).completes
    assert not replay(requests, device=recorded_device(requests, of_size=61 * MIB)).completes
    conf = parse_conf("expandable_segments:True")
    assert least_capacity(requests, conf=conf).high.total_bytes == 52 * MIB


def test_no_device_is_large_enough(requests: Requests) -> None:
    with pytest.raises(MemtraceError, match="by no device"):
        least_capacity(requests, memory_fraction=0.0)


def test_damaged_sizes_and_places_end_nowhere_wild(requests: Requests) -> None:
    sizes = np.array([-5, 1 << 62, 0, 1 << 40], np.int64)
    run = Replayer(requests.resized(sizes)).run()
    assert not run.completes
