"""Sizes and counts as people write them."""

from __future__ import annotations

import pytest

from memtrace.errors import MemtraceError
from memtrace.quantities import parse_count, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("16GiB", 16 << 30), ("16Gi", 16 << 30), ("1.5 GB", 1_500_000_000), ("512M", 512_000_000),
        ("512mib", 512 << 20), ("4096", 4096), ("4096B", 4096), (" 1TiB ", 1 << 40),
    ],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text, "--instance") == size


@pytest.mark.parametrize("text", ["", "0", "-1GiB", "GiB", "1iB", "1 PiB", "1e9GiB", "inf", "x"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(MemtraceError, match=r"--instance .*write a size, such as 16GiB"):
        parse_size(text, "--instance")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("7e9", 7 * 10**9), ("7B", 7 * 10**9), ("0.5b", 5 * 10**8), ("350M", 350 * 10**6),
        ("7,000,000,000", 7 * 10**9), ("7_000", 7000), ("1.2T", 12 * 10**11),
    ],
)  # fmt: skip
def test_counts(text: str, count: int) -> None:
    assert parse_count(text, "--parameters") == count


@pytest.mark.parametrize("text", ["", "0", "many", "-7B", "1e99", "7 B B"])
def test_what_is_no_count(text: str) -> None:
    with pytest.raises(MemtraceError, match=r"--parameters .*write a number, such as 7e9"):
        parse_count(text, "--parameters")
