"""Protobuf's wire format: just what the writers here need, one message or a column at a time.

A field is a varint tag, (number << 3 | wire type), and then

    wire type 0:  a varint: 7 bits a byte, lowest first, the top bit set on all but the last
    wire type 2:  a varint length, and that many bytes (strings and messages)
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bytes2D = npt.NDArray[np.uint8]
Flags2D = npt.NDArray[np.bool_]

_VARINT, _LENGTH_DELIMITED = 0, 2
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


def text(number: int, value: str) -> bytes:
    """A string field."""
    # Names come from file systems and programs: a lone surrogate must not end the export.
    return message(number, value.encode("utf-8", "replace"))


def varint_column(values: npt.NDArray[np.int64]) -> tuple[Bytes2D, Flags2D]:
    """Varints of a whole column: a byte matrix, a value a row, and which of its bytes count."""
    unsigned = values.astype(np.uint64)
    highest = int(unsigned.max()) if len(unsigned) else 0
    width = max(1, min(_MAX_VARINT_BYTES, -(-highest.bit_length() // 7)))
    shifts = np.arange(width, dtype=np.uint64) * np.uint64(7)
    groups = unsigned[:, None] >> shifts
    used = groups > 0
    used[:, 0] = True
    cells = (groups & np.uint64(0x7F)).astype(np.uint8)
    cells[:, :-1] |= used[:, 1:].astype(np.uint8) << 7
    return cells, used


def constant_column(rows: int, value: bytes) -> tuple[Bytes2D, Flags2D]:
    """The same bytes in every row."""
    cells = np.broadcast_to(np.frombuffer(value, np.uint8), (rows, len(value)))
    return cells, np.ones(cells.shape, np.bool_)


def lengths(*columns: tuple[Bytes2D, Flags2D]) -> npt.NDArray[np.int64]:
    """How many bytes each row of these columns takes."""
    return sum(
        (used.sum(axis=1, dtype=np.int64) for _, used in columns),
        start=np.zeros(len(columns[0][0]), np.int64),
    )


def join(*columns: tuple[Bytes2D, Flags2D]) -> bytes:
    """The rows one after the other, each of its columns' bytes in order."""
    cells = np.concatenate([cells for cells, _ in columns], axis=1)
    used = np.concatenate([used for _, used in columns], axis=1)
    joined: bytes = cells[used].tobytes()
    return joined
