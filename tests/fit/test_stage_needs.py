"""What each stage needs."""

from __future__ import annotations

from pathlib import Path

from memtrace.fit.served import serve
from memtrace.fit.stage_needs import StageNeed, stage_needs
from memtrace.replay.requests import read_requests
from memtrace.trace import open_trace
from trace_builder import TraceBuilder


def needs(builder: TraceBuilder) -> dict[str, StageNeed]:
    requests = read_requests(open_trace(builder.write()))
    return {need.name: need for need in stage_needs(serve(requests, on_gpu=False).outcome)}


def test_what_stands_as_a_stage_begins_counts(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    p = builder.process()
    with p.stage("load"):
        p.alloc("cpu", 100)
        p.free(p.alloc("cpu", 50))
    with p.stage("rest"):
        p.time_ns += 1
    for size in (10, 30, 20):
        with p.stage("request"), p.step():
            p.free(p.alloc("cpu", size))
    found = needs(builder)
    assert {name: need.peak_bytes for name, need in found.items()} == {
        "load": 150, "rest": 100, "idle": 100, "request": 130,
    }  # fmt: skip
    assert [name for name, need in found.items() if need.is_peak] == ["load"]
    assert list(found) == ["load", "rest", "idle", "request"]


def test_nothing_is_there_before_the_first_call(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    p = builder.process()
    with p.step():
        p.alloc("cpu", 10)
    assert needs(builder)["idle"].peak_bytes == 0


def test_a_stage_idle_of_the_programs_own(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    p = builder.process()
    p.alloc("cpu", 100)
    with p.stage("idle"):
        p.alloc("cpu", 5)
    with p.step():
        p.free(p.alloc("cpu", 10))
    assert {name: need.peak_bytes for name, need in needs(builder).items()} == {"idle": 105}


def test_a_stage_idle_that_goes_on_ends_where_the_work_begins(tmp_path: Path) -> None:
    for work in ("stage", "step"):
        builder = TraceBuilder(tmp_path / f"{work}.memtrace")
        p = builder.process()
        p.alloc("cpu", 100)
        with p.stage("idle"):
            p.alloc("cpu", 5)
            with p.stage("serve") if work == "stage" else p.step():
                p.free(p.alloc("cpu", 10))
        assert needs(builder)["idle"].peak_bytes == 105


def test_a_program_without_stages_or_calls(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    builder.process().alloc("cpu", 7)
    (whole,) = needs(builder).values()
    assert (whole.name, whole.peak_bytes, whole.is_peak) == ("whole recording", 7, True)
