"""The live set sums to the running totals at every event; its groups partition it."""

from __future__ import annotations

from pathlib import Path

import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memtrace.analyse.breakdown import break_down
from memtrace.analyse.counters import moment_at_seq
from memtrace.analyse.live_set import BYTES, live_allocations
from memtrace.trace import open_trace
from random_programs import PROGRAMS, recorded
from trace_builder import TraceBuilder


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(program=PROGRAMS, rows_per_group=st.integers(1, 7), top=st.integers(1, 4))
def test_sums_to_the_running_totals_at_every_event(
    tmp_path_factory: pytest.TempPathFactory,
    program: list[tuple[str, str, int]],
    rows_per_group: int,
    top: int,
) -> None:
    trace = recorded(tmp_path_factory.mktemp("t") / "x.memtrace", program, rows_per_group)
    key = trace.process_list[0].key
    for event in trace.events.to_pylist():
        moment = moment_at_seq(trace, process=key, device=event["device"], seq=event["seq"])
        for of in ("allocated", "active"):
            live = live_allocations(trace, moment, of=of, columns=["operator", "source"])
            total = event[f"{of}_bytes"]
            assert (pc.sum(live.column(BYTES)).as_py() or 0) == total
            held = break_down(live, by="operator", total_bytes=total, top=top)
            assert sum(row.total_bytes for row in held.rows) == total
            assert sum(row.allocations for row in held.rows) == live.num_rows
            assert held.excess_bytes == 0
            assert sum(row.share_permille for row in held.rows) == (1000 if total else 0)


def test_requested_bytes_are_those_asked_for(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    builder.process().alloc("cuda:0", 1000)
    trace = open_trace(builder.write())
    moment = moment_at_seq(trace, process="box-100-a100z", device="cuda:0", seq=0)
    for of, size in (("allocated", 1024), ("active", 1024), ("requested", 1000)):
        live = live_allocations(trace, moment, of=of, columns=[])
        assert live.column(BYTES).to_pylist() == [size]


def test_a_block_of_unknown_size_counts_for_what_was_asked(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    process.alloc("cpu", 77)
    process.rows["allocations"][0]["block_bytes"] = None
    trace = open_trace(builder.write())
    moment = moment_at_seq(trace, process="box-100-a100z", device="cpu", seq=0)
    assert live_allocations(trace, moment, of="allocated", columns=[])[BYTES].to_pylist() == [77]


def test_mapped_weights_are_beside_the_total(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    process.alloc("cpu", 4096, action="external", memory="mapped", resident_bytes=100)
    process.alloc("cpu", 1024, action="external", resident_bytes=None)
    process.alloc("cpu", 10)
    peak = open_trace(builder.write()).peak()
    assert peak.total_bytes == peak.breakdown.total_bytes == 10
    external = peak.snapshot.external
    assert (external.total_bytes, external.resident_bytes, external.unknown_bytes) == (
        5120, 100, 1024,
    )  # fmt: skip
    assert external.memory == ("host", "mapped")
