"""Protobuf's wire format: just what the writers here need, one message or a column at a time.

A field is a varint tag, (number << 3 | wire type), and then

    wire type 0:  a varint: 7 bits a byte, lowest first, the top bit set on all but the last
    wire type 1:  8 bytes, lowest first (fixed64 and double)
    wire type 2:  a varint length, and that many bytes (strings and messages)

A column is one field, or a part of one, of many messages at once: a byte matrix, a message a row.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Bytes2D = npt.NDArray[np.uint8]
Flags2D = npt.NDArray[np.bool_]
Flags = npt.NDArray[np.bool_]
Int64s = npt.NDArray[np.int64]

_VARINT, _FIXED64, _LENGTH_DELIMITED = 0, 1, 2
_MAX_VARINT_BYTES = 10


def varint(value: int) -> bytes:
    """An unsigned integer; a negative one as protobuf's int64 has it."""
    value &= 2**64 - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def integer(number: int, value: int) -> bytes:
    """An integer field."""
    return varint(number << 3 | _VARINT) + varint(value)


def message(number: int, *fields: bytes) -> bytes:
    """A message or bytes field, of its parts."""
    body = b"".join(fields)
    return varint(number << 3 | _LENGTH_DELIMITED) + varint(len(body)) + body


def utf8(value: str) -> bytes:
    """A name as a string field may hold it."""
    # Names come from file systems and programs: a lone surrogate must not end the export.
    return value.encode("utf-8", "replace")


def text(number: int, value: str) -> bytes:
    """A string field."""
    return message(number, utf8(value))


class Column(NamedTuple):
    """Bytes of many messages.

    Attributes:
        cells: uint8[rows, width].
        used: bool[rows, width], which of them count.
        lengths: int64[rows], how many count in each row.
    """

    cells: Bytes2D
    used: Flags2D
    lengths: Int64s

    def where(self, present: Flags) -> Column:
        """Nothing in the rows where the field is not `present`."""
        return Column(self.cells, self.used & present[:, None], self.lengths * present)


def constant_column(rows: int, value: bytes) -> Column:
    """The same bytes in every row."""
    cells = np.broadcast_to(np.frombuffer(value, np.uint8), (rows, len(value)))
    used = np.broadcast_to(np.True_, cells.shape)
    return Column(cells, used, np.full(rows, len(value), np.int64))


def varint_column(values: Int64s) -> Column:
    """A varint a row."""
    unsigned = values.astype(np.uint64)
    highest = int(unsigned.max()) if len(unsigned) else 0
    width = max(1, min(_MAX_VARINT_BYTES, -(-highest.bit_length() // 7)))
    cells = np.empty((len(values), width), np.uint8)
    used = np.empty(cells.shape, np.bool_)
    used[:, 0] = True
    for place in range(width):
        cells[:, place] = unsigned & np.uint64(0x7F)
        unsigned = unsigned >> np.uint64(7)
        if place + 1 < width:
            np.not_equal(unsigned, 0, out=used[:, place + 1])
            cells[:, place] |= used[:, place + 1].view(np.uint8) << np.uint8(7)
    return Column(cells, used, used.sum(axis=1, dtype=np.int64))


def integer_column(number: int, values: Int64s) -> Column:
    """An integer field a row."""
    return joined(
        constant_column(len(values), varint(number << 3 | _VARINT)), varint_column(values)
    )


def fixed64_column(number: int, values: Int64s) -> Column:
    """A fixed64 field a row."""
    return _eight_bytes(number, values.astype("<i8"))


def double_column(number: int, values: Int64s) -> Column:
    """A double field a row; exact up to 2^53."""
    return _eight_bytes(number, values.astype("<f8"))


def _eight_bytes(number: int, values: npt.NDArray[np.generic]) -> Column:
    cells = np.ascontiguousarray(values).view(np.uint8).reshape(len(values), 8)
    value = Column(cells, np.broadcast_to(np.True_, cells.shape), np.full(len(values), 8, np.int64))
    return joined(constant_column(len(values), varint(number << 3 | _FIXED64)), value)


def message_column(number: int, *columns: Column) -> Column:
    """A message field a row, of the parts that each row has."""
    lengths = sum((column.lengths for column in columns), start=np.int64(0))
    rows = len(columns[0].cells)
    head = constant_column(rows, varint(number << 3 | _LENGTH_DELIMITED))
    return joined(head, varint_column(np.broadcast_to(lengths, (rows,))), *columns)


def joined(*columns: Column) -> Column:
    """These columns as one: in each row the bytes of the one after those of the other."""
    return Column(
        np.concatenate([column.cells for column in columns], axis=1),
        np.concatenate([column.used for column in columns], axis=1),
        np.sum([column.lengths for column in columns], axis=0, dtype=np.int64),
    )


def rows_of(column: Column) -> bytes:
    """The rows one after the other."""
    packed: bytes = column.cells[column.used].tobytes()
    return packed
