"""Sizes and counts as a user writes them."""

from __future__ import annotations

import re
from fractions import Fraction

from memtrace.errors import MemtraceError

_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,9})?) ?([KMGT]?)(i?)B?", re.ASCII | re.IGNORECASE)
_COUNT = re.compile(r"(\d{1,15}(?:\.\d{1,9})?(?:e\d{1,2})?) ?([KMBT]?)", re.ASCII | re.IGNORECASE)
_MOST = 10**18


def parse_size(text: str, option: str, *, least: int = 1) -> int:
    """Bytes of "16GiB", "16Gi", "1.5 GB" (10^9) or plain bytes.

    Raises:
        MemtraceError: it is none of these, or less than `least`.
    """
    match = _SIZE.fullmatch(text.strip())
    size = -1
    if match is not None and (match[2] or not match[3]):
        base = 1024 if match[3] else 1000
        size = int(Fraction(match[1]) * base ** " KMGT".index(match[2].upper() or " "))
    if not least <= size <= _MOST:
        raise MemtraceError(f"{option} {text}: write a size, such as 16GiB or 512MiB")
    return size


def parse_count(text: str, option: str) -> int:
    """A number: "7e9", "7B" (10^9), "350M" or all its digits.

    Raises:
        MemtraceError: it is none of these, or nothing.
    """
    match = _COUNT.fullmatch(text.strip().replace(",", "").replace("_", ""))
    number = 0.0
    if match is not None:
        number = float(match[1]) * 1000 ** " KMBT".index(match[2].upper() or " ")
    if not 1 <= number <= _MOST:
        raise MemtraceError(f"{option} {text}: write a number, such as 7e9, 7B or 350M")
    return round(number)
