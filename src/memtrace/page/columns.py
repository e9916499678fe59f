"""Columns of numbers in a page, small: what payload.js's `Columns` reads.

A column is cut into planes: the lowest byte of every value, then the next byte of every value. So
what is alike lies side by side, and deflates well. Ascending columns are stored as differences.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from memtrace.errors import MemtraceError

_LEVEL = 6
#: The largest whole number that JavaScript has exactly.
MOST = 2**53


class ColumnPacker:
    """Collects columns. What `add` gives goes into the document: it says where the column lies."""

    def __init__(self) -> None:
        self._planes: list[bytes] = []
        self._size = 0

    def add(
        self, values: Sequence[int] | npt.NDArray[np.integer[Any]], *, delta: bool = False
    ) -> dict[str, Any]:
        """A column of whole numbers below MOST; negative ones need `delta`.

        Raises:
            MemtraceError: there are others, as of memory that was freed before it was allocated.
        """
        column = np.asarray(values, np.int64)
        if delta:
            step = np.diff(column, prepend=np.zeros(1, np.int64))
            column = (step << 1) ^ (step >> 63)  # zigzag: small whether up or down
        most = int(column.max(initial=0))
        if most >= MOST or column.min(initial=0) < 0:
            raise MemtraceError(
                f"the trace is damaged: sizes, times or places in it make {column.min():,} to "
                f"{most:,}, and a page holds 0 to {MOST:,}"
            )
        width = max((most.bit_length() + 7) // 8, 1)
        planes = column.astype("<i8").view(np.uint8).reshape(-1, 8)[:, :width].T.tobytes()
        place = {"at": self._size, "rows": len(column), "width": width, "delta": delta}
        self._planes.append(planes)
        self._size += len(planes)
        return place

    def add_json(self, value: Any) -> dict[str, int]:
        """Text, and lists of it: among the columns it is deflated."""
        text = json.dumps(value, separators=(",", ":")).encode()
        place = {"at": self._size, "size": len(text)}
        self._planes.append(text)
        self._size += len(text)
        return place

    def packed(self) -> bytes:
        """All columns, deflated."""
        deflate = zlib.compressobj(_LEVEL)
        parts = [deflate.compress(planes) for planes in self._planes]
        return b"".join([*parts, deflate.flush()])


class Words:
    """Distinct strings, numbered from 1 as they come; 0 is none."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, word: str | None) -> int:
        """The number of a word."""
        return self._numbers.setdefault(word, len(self._numbers) + 1) if word else 0

    def listed(self) -> list[str]:
        """The words in the order of their numbers."""
        return list(self._numbers)
