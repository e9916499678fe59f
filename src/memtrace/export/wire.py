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
        rows: how many messages.
        parts: side by side, uint8[rows, width] and bool[rows, width], which of its bytes count.
        lengths: int64[rows], how many count in each row; one number where all have as many.
    """

    rows: int
    parts: tuple[tuple[Bytes2D, Flags2D], ...]
    lengths: Int64s | int

    def where(self, present: Flags) -> Column:
        """Nothing in the rows where the field is not `present`."""
        parts = tuple((cells, used & present[:, None]) for cells, used in self.parts)
        return Column(self.rows, parts, self.lengths * present.astype(np.int64))

    def take(self, chosen: Flags) -> Column:
        """Some of the rows."""
        if chosen.all():
            return self
        parts = tuple((cells[chosen], used[chosen]) for cells, used in self.parts)
        lengths = self.lengths if isinstance(self.lengths, int) else self.lengths[chosen]
        return Column(int(np.count_nonzero(chosen)), parts, lengths)


def constant_column(rows: int, value: bytes) -> Column:
    """The same bytes in every row."""
    return _whole(np.broadcast_to(np.frombuffer(value, np.uint8), (rows, len(value))))


def _whole(cells: Bytes2D) -> Column:
    rows, width = cells.shape
    return Column(rows, ((cells, np.broadcast_to(np.True_, cells.shape)),), width)


def varint_column(values: Int64s) -> Column:
    """A varint a row."""
    rest = values.astype(np.uint64)
    highest = int(rest.max()) if len(rest) else 0
    width = max(1, min(_MAX_VARINT_BYTES, -(-highest.bit_length() // 7)))
    cells = np.empty((len(values), width), np.uint8, order="F")
    used = np.ones(cells.shape, np.bool_, order="F")
    lengths = np.ones(len(values), np.int64)
    for place in range(width):
        np.bitwise_and(rest, np.uint64(0x7F), out=cells[:, place], casting="unsafe")
        if place + 1 < width:
            rest >>= np.uint64(7)
            more = used[:, place + 1]
            np.not_equal(rest, 0, out=more)
            cells[:, place] |= more.view(np.uint8) << np.uint8(7)
            lengths += more
    return Column(len(values), ((cells, used),), lengths)


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


def _eight_bytes(number: int, values: npt.NDArray[np.int64 | np.float64]) -> Column:
    head = constant_column(len(values), varint(number << 3 | _FIXED64))
    return joined(head, _whole(values.view(np.uint8).reshape(len(values), 8)))


def message_column(number: int, *columns: Column) -> Column:
    """A message field a row, of the parts that each row has."""
    body = joined(*columns)
    tag = varint(number << 3 | _LENGTH_DELIMITED)
    if isinstance(body.lengths, int):
        return joined(constant_column(body.rows, tag + varint(body.lengths)), body)
    return joined(constant_column(body.rows, tag), varint_column(body.lengths), body)


def joined(*columns: Column) -> Column:
    """These columns as one: in each row the bytes of the one after those of the other."""
    lengths: Int64s | int = 0
    for column in columns:
        lengths = lengths + column.lengths
    parts = tuple(part for column in columns for part in column.parts)
    return Column(columns[0].rows, parts, lengths)


def rows_of(column: Column) -> bytes:
    """The rows one after the other."""
    cells = np.concatenate([cells for cells, _ in column.parts], axis=1)
    used = np.concatenate([used for _, used in column.parts], axis=1)
    packed: bytes = cells[used].tobytes()
    return packed
