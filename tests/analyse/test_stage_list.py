"""Stages in the order of their beginning."""

from __future__ import annotations

from pathlib import Path

from memtrace.analyse.stage_list import stages_of
from memtrace.trace import open_trace
from trace_builder import TraceBuilder


def test_of_stages_that_begin_at_one_moment_the_outer_one_comes_first(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "t.memtrace")
    rows = builder.process()
    rows.tick_ns = 0
    with rows.stage("outer"), rows.stage("inner"):
        pass
    rows.rows["stages"].reverse()  # a row is written when its stage ends
    trace = open_trace(builder.write())
    (process,) = trace.process_list
    assert [stage.name for stage in stages_of(trace, process)] == ["outer", "inner"]
