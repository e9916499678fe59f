"""How much a peak may grow from one trace to another, as a program that checks it is told."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from memtrace.errors import MemtraceError


@dataclass(frozen=True)
class Allowance:
    """How much a peak may grow: a share of A's, or bytes. `text`: as it was given."""

    text: str
    percent: Fraction | None
    size_bytes: int | None

    def is_exceeded(self, a_bytes: int, b_bytes: int) -> bool:
        """Exact: no growth is rounded away."""
        if self.size_bytes is not None:
            return b_bytes - a_bytes > self.size_bytes
        return 100 * (b_bytes - a_bytes) > (self.percent or 0) * a_bytes


_ALLOWANCE = re.compile(r"(\d{1,18}(?:\.\d{1,9})?) ?(%|B|[KMGT]i?B)", re.ASCII | re.IGNORECASE)


def parse_allowance(text: str) -> Allowance:
    """ "2%", "100MiB", "1.5 GiB", "4096B"; KB is 1000 bytes, KiB 1024.

    Raises:
        MemtraceError: it is none of these.
    """
    match = _ALLOWANCE.fullmatch(text.strip())
    if match is None:
        raise MemtraceError(f"growth {text!r}: write a share (2%) or a size (100MiB)")
    number, unit = Fraction(match[1]), match[2].upper()
    if unit == "%":
        return Allowance(text.strip(), number, None)
    base = 1024 if "I" in unit else 1000
    return Allowance(text.strip(), None, int(number * base ** " KMGT".index(unit[:-1][:1] or " ")))
