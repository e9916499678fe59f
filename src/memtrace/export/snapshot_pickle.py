"""Writing a pickle by hand, so that a million events are rows of a matrix and not a million dicts.

Protocol 2 and only opcodes that MemoryViz.js knows. Strings and lists that come again are put into
the memo at their first sight. Numbers in rows take 8 bytes each (LONG1), so that every row of a
matrix has the same length: the row of a dict is a template into which columns are written.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Columns = dict[str, npt.NDArray[Any]]

_PROTO, _STOP = b"\x80\x02", b"."
_MARK, _DICT, _SETITEMS, _LIST, _APPENDS = b"(", b"}", b"u", b"]", b"e"
_LONG8 = b"\x8a\x08"
# MemoryViz.js hands the items of an APPENDS to push(...) as arguments: their number is limited.
_ITEMS_AT_A_TIME = 1000


class PickleWords:
    """Encodes values; remembers which strings and lists are in the memo."""

    def __init__(self) -> None:
        self._memo: dict[str, int] = {}
        self._frames: dict[tuple[str, str, int], int] = {}
        self._next = 0

    def text(self, value: str) -> bytes:
        """A string: the first time whole, then by its number in the memo."""
        known = self._memo.get(value)
        if known is not None:
            return get(known)
        self._memo[value] = self._next
        encoded = value.encode("utf-8", "backslashreplace")
        return b"X" + struct.pack("<I", len(encoded)) + encoded + self._put()

    def place(self, value: str) -> int:
        """The number in the memo of a string that was written."""
        return self._memo[value]

    def kept_list(self, items: Iterable[bytes]) -> tuple[bytes, int]:
        """A list, and its number in the memo."""
        number = self._next
        return _LIST + self._put() + b"".join(batches(items)), number

    def mapping(self, **values: bytes) -> bytes:
        """A dict of encoded values."""
        body = b"".join(self.text(key) + value for key, value in values.items())
        return _DICT + _MARK + body + _SETITEMS

    def frame(self, name: str, filename: str, line: int) -> bytes:
        """A frame: the first time whole, then by its number in the memo."""
        known = self._frames.get((name, filename, line))
        if known is not None:
            return get(known)
        self._frames[name, filename, line] = self._next
        opening = _DICT + self._put() + _MARK
        names = self.text("name") + self.text(name) + self.text("filename") + self.text(filename)
        return opening + names + self.text("line") + integer(line) + _SETITEMS

    def template(self, columns: Sequence[str]) -> Template:
        """Rows that are dicts, of which all strings are in the memo already.

        A column is a key, and holds integers; "KEY:text" holds memo numbers; ":key" holds memo
        numbers of a key, whose value is the next column, ":value".
        """
        row, places = bytearray(_DICT + _MARK), {}
        for name in columns:
            key, _, kind = name.partition(":")
            row += self.text(key) if key else b""
            in_memo = kind in ("text", "key")
            row += b"j" if in_memo else _LONG8
            places[name] = len(row)
            row += bytes(4 if in_memo else 8)
        return Template(bytes(row + _SETITEMS), places)

    def _put(self) -> bytes:
        self._next += 1
        return b"r" + struct.pack("<I", self._next - 1)


class Template:
    """The row of a matrix, and where its columns go."""

    def __init__(self, row: bytes, places: dict[str, int]) -> None:
        self._row = np.frombuffer(row, np.uint8)
        self._type = np.dtype(
            {
                "names": list(places),
                "formats": [
                    "<u4" if name.endswith((":text", ":key")) else "<i8" for name in places
                ],
                "offsets": list(places.values()),
                "itemsize": len(row),
            }
        )

    def rows(self, columns: Columns) -> Iterator[bytes]:
        """Encoded rows, ready to be put into a list: some bytes at a time."""
        number = len(next(iter(columns.values())))
        for at in range(0, number, _ITEMS_AT_A_TIME):
            some = min(_ITEMS_AT_A_TIME, number - at)
            matrix = np.tile(self._row, (some, 1))
            fields = matrix.view(self._type).reshape(some)
            for name, values in columns.items():
                fields[name] = values[at : at + some]
            yield _MARK + matrix.tobytes() + _APPENDS


def get(number: int) -> bytes:
    """What is in the memo under this number."""
    return b"j" + struct.pack("<I", number)


def integer(value: int) -> bytes:
    """A number of at most 63 bits."""
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    return _LONG8 + struct.pack("<q", value)


def flag(value: bool) -> bytes:
    return b"\x88" if value else b"\x89"


def real(value: float) -> bytes:
    return b"G" + struct.pack(">d", value)


def pair(first: int, second: int) -> bytes:
    """A tuple of two numbers."""
    return integer(first) + integer(second) + b"\x86"


def list_of(items: Iterable[bytes]) -> bytes:
    """A list of encoded items."""
    return _LIST + b"".join(batches(items))


def batches(items: Iterable[bytes]) -> Iterator[bytes]:
    """Encoded items, to be put into the list before them."""
    some: list[bytes] = []
    for item in items:
        some.append(item)
        if len(some) == _ITEMS_AT_A_TIME:
            yield _MARK + b"".join(some) + _APPENDS
            some = []
    if some:
        yield _MARK + b"".join(some) + _APPENDS


BEGIN = _PROTO + _DICT + _MARK
END = _SETITEMS + _STOP
BEGIN_LIST = _LIST
