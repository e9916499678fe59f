"""Threads that live for one allocation, and tensors that die where and when nobody expects it."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path

import pytest

import memtrace
from program_runs import main_process, python, recorded
from program_runs import memtrace as memtrace_command

PROGRAMS = Path(__file__).resolve().parents[1] / "programs"
FIRST_BYTES = 10_000

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed"
)


def test_five_thousand_threads(tmp_path: Path) -> None:
    threads = 5000
    program, trace = PROGRAMS / "unharmed" / "short_threads.py", tmp_path / "t.memtrace"
    plain = python(program)
    assert plain.out.startswith(b"50 ")
    assert recorded(trace, program) == plain
    process = main_process(trace)
    assert (process["lost_total"], process["unmatched_frees"]) == (0, 0), process["lost_events"]
    rows = [
        row
        for row in memtrace.open(trace).allocations.to_pylist()
        if row["size_bytes"] >= FIRST_BYTES and row["top_operator"] == "aten::empty"
    ]
    sizes = sorted(row["size_bytes"] - FIRST_BYTES for row in rows)
    kept = [2 * threads + i for i in range(0, threads, 100)]
    assert sizes == [*range(2 * threads), *kept]
    assert sorted(
        row["size_bytes"] - FIRST_BYTES for row in rows if row["free_seq"] is None
    ) == kept  # fmt: skip
    assert len({row["thread_id"] for row in rows}) == threads


def test_frees_in_other_threads_after_the_end_and_in_the_next_recording(tmp_path: Path) -> None:
    shown = python(PROGRAMS / "hazards" / "frees_elsewhere.py", tmp_path)
    assert (shown.status, shown.err) == (0, b"")
    assert shown.out.split()[:-1] == [b"500", b"200", b"100", b"100"]

    def rows(name: str) -> list[tuple[int, bool, bool]]:
        """(hundred of bytes, freed, freed in the thread that allocated it), a tensor each."""
        trace = memtrace.open(tmp_path / name)
        thread = {row["seq"]: row["thread_id"] for row in trace.events.to_pylist()}
        return [
            (
                (row["size_bytes"] - FIRST_BYTES) // 500,
                row["free_seq"] is not None,
                thread.get(row["free_seq"]) == thread[row["alloc_seq"]],
            )
            for row in trace.allocations.to_pylist()
            if row["size_bytes"] >= FIRST_BYTES
        ]

    assert Counter(rows("1.memtrace")) == {(0, True, False): 500, (1, False, False): 500}
    # What lived before it is not the second's; the frees of what the first had are counted.
    assert Counter(rows("2.memtrace")) == {(4, True, False): 500}
    first, second = (main_process(tmp_path / f"{n}.memtrace") for n in (1, 2))
    assert (first["lost_total"], first["unmatched_frees"]) == (0, 0)
    assert (second["lost_total"], second["unmatched_frees"]) == (0, 100)
    assert b"100" in memtrace_command("summary", tmp_path / "2.memtrace").out
