"""The page of `memtrace leaks`: its verdict in one line, its tables, and no line too long."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from memtrace.analyse.leaks import find_leaks
from memtrace.report.leaks import leaks_page, ordinal
from memtrace.report.page import write_page
from memtrace.trace import open_trace
from trace_builder import ProcessBuilder, TraceBuilder, failing_trace


def page(trace: Path, *, top: int = 20) -> list[str]:
    out = io.StringIO()
    write_page(leaks_page(find_leaks(open_trace(trace)), top=top), out)
    lines = out.getvalue().splitlines()
    assert all(len(line) <= 100 for line in lines), lines
    return lines


def program(tmp_path: Path, steps: int, body: Callable[[ProcessBuilder, int], object]) -> Path:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    process = builder.process()
    process.alloc("cpu", 4096, source="load.py:1 f")
    for step in range(steps):
        process.short_step()
        body(process, step)
    return builder.write()


def test_growth(tmp_path: Path) -> None:
    lines = page(failing_trace(tmp_path / "x.memtrace"))
    assert lines[0] == "Leaks of process 100: 12 steps, calls of Net"
    assert "cuda:0: grows by 2.00 MiB per step" in lines
    assert "  full (400.0 MiB) after 189 more steps at the latest" in lines
    assert lines[-1].split() == [
        "train.py:42", "main", "2.00", "MiB", "22.00", "MiB", "11", "each", "of", "5", "steps",
        "aten::mean", "·", "Net",
    ]  # fmt: skip


def test_no_leak_is_one_line(tmp_path: Path) -> None:
    trace = program(tmp_path, 20, lambda p, step: p.free(p.alloc("cpu", 8)))
    assert page(trace)[2:] == [
        "cpu: no leak: nothing grows over 20 steps",
        "  0 B left by the steps where the last one begins, beside 4.00 KiB from before the first",
    ]


def test_what_is_kept_is_told_apart(tmp_path: Path) -> None:
    def body(process: ProcessBuilder, step: int) -> None:
        if step == 0:
            process.alloc("cpu", 100, source="adam.py:1 f", category="optimizer_state")
        if step in (15, 16):
            process.alloc("cpu", 10, source="eval.py:1 f")

    lines = page(program(tmp_path, 20, body))
    assert lines[2] == "cpu: nothing grows steadily over 20 steps, but 20 B came irregularly"
    assert [line.split()[:5] for line in lines[-6:-3]] == [
        ["No", "steady", "growth", "Kind", "Kept"],
        ["eval.py:1", "f", "irregular", "20", "B"],
        ["adam.py:1", "f", "warm-up", "100", "B"],
    ]
    assert lines[-5 + 1].endswith("optimizer_state")
    assert lines[-2].startswith("warm-up: ")
    assert lines[-1].startswith("irregular: ")


def test_too_few_steps(tmp_path: Path) -> None:
    trace = program(tmp_path, 3, lambda p, step: p.alloc("cpu", 8, source="a.py:1 f"))
    assert page(trace)[2] == "cpu: too few steps to tell growth from warm-up (3; 8 would do)"


def test_every_so_many_steps_and_many_groups(tmp_path: Path) -> None:
    def body(process: ProcessBuilder, step: int) -> None:
        for source in range(3):
            if step % 3 == 0:
                process.alloc("cpu", 1000 + source, source=f"a.py:{source} f")

    lines = page(program(tmp_path, 60, body), top=2)
    assert [line.split()[0] for line in lines[-3:-1]] == ["a.py:2", "a.py:1"]
    assert "of 29, every 3rd" in lines[-2]
    assert lines[-1] == "--top N names more than 2, --by groups otherwise"


@pytest.mark.parametrize(
    ("number", "word"),
    [(2, "2nd"), (3, "3rd"), (11, "11th"), (13, "13th"), (21, "21st"), (10, "10th")],
)
def test_ordinals(number: int, word: str) -> None:
    assert ordinal(number) == word
