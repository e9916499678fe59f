"""The page tells numbers in the same words as the terminal."""

from __future__ import annotations

from collections.abc import Callable

from memtrace.report.units import count, duration, exact, size
from page.conftest import Page
from trace_builder import serving_trace

SIZES = [0, 1, 1023, 1024, 1536, 10_240, 102_399, 1_048_575, 1_072_693_248, 1_073_741_823,
         110_856_460, 2**40, 3 * 2**50, -5, -2048]  # fmt: skip
TIMES = [0, 999, 1_000, 1_500_000, 999_999, 2_500_000_000, 119_000_000_000, 184_500_000_000,
         7_200_000_000_000, 7_265_000_000_000]  # fmt: skip


def test_sizes_times_and_counts(make_page: Callable[..., Page]) -> None:
    page = make_page(serving_trace)
    assert page.run("return arguments[0].map(formatBytes)", SIZES) == [size(n) for n in SIZES]
    assert page.run("return arguments[0].map(formatExactBytes)", SIZES) == [exact(n) for n in SIZES]
    assert page.run("return arguments[0].map(formatTime)", TIMES) == [duration(n) for n in TIMES]
    numbers = [0, 1, 999, 1000, 1234567]
    told = page.run("return arguments[0].map((n) => formatNumberOf(n, 'block'))", numbers)
    assert told == [count(n, "block") for n in numbers]


def test_ticks_are_round(make_page: Callable[..., Page]) -> None:
    page = make_page(serving_trace)

    def bytes_of(most: int) -> list[str]:
        found: list[str] = page.run("return byteTicks(arguments[0], 4).map((t) => t.text)", most)
        return found

    assert bytes_of(1000) == ["0 B", "500 B", "1000 B"]
    assert bytes_of(int(1.7 * 2**20)) == ["0 MiB", "0.5 MiB", "1.0 MiB", "1.5 MiB"]
    assert bytes_of(80 * 2**30) == ["0 GiB", "20 GiB", "40 GiB", "60 GiB", "80 GiB"]

    def times(start: float, end: float) -> list[str]:
        found: list[str] = page.run(
            "return timeTicks(arguments[0], arguments[1], 4).map((t) => t.text)", start, end
        )
        return found

    assert times(0, 1e9) == ["0.0 s", "0.5 s", "1.0 s"]
    assert times(3.2e6, 3.6e6) == ["3.2 ms", "3.3 ms", "3.4 ms", "3.5 ms", "3.6 ms"]
    assert times(0, 3.6e12 * 5) == ["0 min", "2:00 h", "4:00 h"]
