from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from memtrace.attribute.columns import NEVER, NONE
from memtrace.attribute.intervals import Intervals, read_intervals
from memtrace.dataset import parts_in
from trace_builder import ProcessBuilder, TraceBuilder


def made(*pairs: tuple[int, int]) -> Intervals:
    begin, end = np.array(pairs, np.int64).reshape(-1, 2).T
    return Intervals.of(begin, end, end, np.ones(len(pairs), np.int64))


pairs_of_seq = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda pair: (min(pair), max(pair))),
    max_size=12,
)


@given(pairs_of_seq)
def test_covering_is_the_last_begun_around_a_place(pairs: list[tuple[int, int]]) -> None:
    intervals = made(*pairs)
    seqs = np.arange(-1, 32)
    for seq, place in zip(seqs.tolist(), intervals.covering(seqs).tolist(), strict=True):
        around = [b for b, e in pairs if b <= seq < e]
        assert (place == NONE) == (not around)
        if around:
            assert intervals.begin[place] == max(around)
            assert intervals.end[place] > seq


@given(pairs_of_seq)
def test_last_end_and_next_begin(pairs: list[tuple[int, int]]) -> None:
    intervals = made(*pairs)
    seqs = np.arange(-1, 32)
    ends = intervals.last_end(seqs)
    begins = intervals.value(intervals.begin, intervals.next_after(seqs), NEVER)
    for seq, end, begin in zip(seqs.tolist(), ends.tolist(), begins.tolist(), strict=True):
        assert end == max((e for b, e in pairs if b <= seq), default=NONE)
        assert begin == min((b for b, _ in pairs if b > seq), default=NEVER)


def read(tmp_path: Path, process: ProcessBuilder, builder: TraceBuilder) -> dict[str, Intervals]:
    path = builder.write()
    return read_intervals(parts_in(path / "marks" / f"process={process.key}", "marks"))


def found(intervals: Intervals) -> list[tuple[int, int]]:
    return list(zip(intervals.begin.tolist(), intervals.end.tolist(), strict=True))


def test_ends_belong_to_their_task_or_to_their_thread(tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "t.memtrace")
    p = builder.process()

    def mark(kind: str, **columns: object) -> None:
        p.alloc("cpu", 8)  # another place
        p.mark(kind, **columns)

    mark("backward_begin", text="1")  # at 1
    mark("backward_begin", pool="graph:2", thread_id=2)  # another torch's way to say it
    mark("optimizer_begin", text="Adam")
    mark("backward_end", text="1", thread_id=9)
    mark("recompute_begin", thread_id=2)
    mark("recompute_begin", thread_id=3)  # at 6
    mark("recompute_end", thread_id=2)
    mark("backward_end", pool="graph:2", thread_id=9)
    mark("optimizer_end")
    mark("recompute_end", thread_id=4)  # nobody began it
    mark("capture_begin")
    intervals = read(tmp_path, p, builder)
    assert found(intervals["backward"]) == [(1, 4), (2, 8)]
    assert found(intervals["optimizer"]) == [(3, 9)]
    assert found(intervals["recompute"]) == [(5, 7), (6, NEVER)]
    assert intervals["backward"].thread.tolist() == [1, 2]
