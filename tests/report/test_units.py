"""Sizes, times and shares as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memtrace.report.units import count, duration, exact, percent, size


@pytest.mark.parametrize(
    ("total_bytes", "shown"),
    [
        (0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (1536, "1.50 KiB"),
        (1024**2 - 1, "1.00 MiB"), (100 * 2**20, "100.0 MiB"), (1000 * 2**20, "1000 MiB"),
        (2**30, "1.00 GiB"), (80 * 2**30, "80.00 GiB"), (2**62, "4096 PiB"), (-2048, "-2.00 KiB"),
    ],
)  # fmt: skip
def test_size(total_bytes: int, shown: str) -> None:
    assert size(total_bytes) == shown


@given(st.integers(0, 2**60))
def test_a_size_is_never_long_nor_rounded_to_1024(total_bytes: int) -> None:
    number, unit = size(total_bytes).split()
    assert len(number) <= 5
    assert float(number) < 1024 or unit == "PiB"


def test_exact() -> None:
    assert (exact(0), exact(1), exact(512)) == ("0 bytes", "1 byte", "512 bytes")
    assert exact(5120) == "5.00 KiB (5,120 bytes)"


@pytest.mark.parametrize(
    ("time_ns", "shown"),
    [
        (850, "850 ns"), (1_500, "1.500 us"), (1_250_000, "1.250 ms"), (12_345_000_000, "12.345 s"),
        (184_500_000_000, "3 min 04.5 s"), (7_322_000_000_000, "2 h 02 min 02 s"),
    ],
)  # fmt: skip
def test_duration(time_ns: int, shown: str) -> None:
    assert duration(time_ns) == shown


def test_percent_and_count() -> None:
    assert percent(1000) == "100.0 %"
    assert (count(1, "block"), count(1024, "block")) == ("1 block", "1,024 blocks")
