"""How much a peak may grow: to the byte."""

from __future__ import annotations

import pytest

from memtrace.analyse.allowance import parse_allowance
from memtrace.errors import MemtraceError

MIB = 2**20


@pytest.mark.parametrize(
    ("text", "a", "b", "exceeded"),
    [
        ("2%", 1000, 1020, False), ("2%", 1000, 1021, True), ("0%", 10**15, 10**15 + 1, True),
        ("0%", 5, 5, False), ("0.5 %", 1000, 1005, False), ("0.5%", 1000, 1006, True),
        ("2%", 0, 1, True), ("100MiB", 0, 100 * MIB, False), ("100MiB", 0, 100 * MIB + 1, True),
        ("1KB", 0, 1001, True), ("1kib", 0, 1024, False), ("1.5GiB", 0, 3 * 2**29 + 1, True),
        ("7B", 1, 8, False), ("0B", 1, 2, True), ("2%", 1000, 1, False), ("1TiB", 0, 2**40, False),
    ],
)  # fmt: skip
def test_how_much_a_peak_may_grow(text: str, a: int, b: int, exceeded: bool) -> None:
    assert parse_allowance(text).is_exceeded(a, b) is exceeded


@pytest.mark.parametrize("text", ["", "2", "-2%", "two", "2%%", "5 miles", "MiB", "1e3B", "²%"])
def test_no_growth(text: str) -> None:
    with pytest.raises(MemtraceError, match=r"write a share \(2%\) or a size \(100MiB\)"):
        parse_allowance(text)
