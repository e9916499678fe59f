"""The wire format against protobuf's own encoder."""

from __future__ import annotations

import struct

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from memtrace.export.wire import (
    constant_column,
    double_column,
    fixed64_column,
    integer,
    integer_column,
    joined,
    message,
    message_column,
    rows_of,
    text,
    varint,
    varint_column,
)


def decode(data: bytes) -> tuple[int, int]:
    value = shift = used = 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        shift, used = shift + 7, used + 1
        if byte < 0x80:
            break
    return value, used


@given(st.integers(0, 2**64 - 1))
def test_varint(value: int) -> None:
    assert decode(varint(value)) == (value, len(varint(value)))


def test_a_negative_number_takes_ten_bytes() -> None:
    assert varint(-1) == b"\xff" * 9 + b"\x01"
    assert rows_of(varint_column(np.array([-1]))) == varint(-1)


numbers = st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=30)


@given(numbers)
def test_a_column_is_its_values_one_after_the_other(values: list[int]) -> None:
    column = varint_column(np.array(values, np.int64))
    assert rows_of(column) == b"".join(map(varint, values))
    assert np.broadcast_to(column.lengths, len(values)).tolist() == [
        len(varint(value)) for value in values
    ]
    mixed = rows_of(joined(constant_column(len(values), b"ab"), column))
    assert mixed == b"".join(b"ab" + varint(value) for value in values)


@given(numbers, st.lists(st.booleans(), min_size=30, max_size=30))
def test_messages_of_fields_that_some_rows_lack(values: list[int], present: list[bool]) -> None:
    array, flags = np.array(values, np.int64), np.array(present[: len(values)])
    column = message_column(60, integer_column(1, array).where(flags), integer_column(30, array))
    assert rows_of(column) == b"".join(
        message(60, integer(1, value) if flag else b"", integer(30, value))
        for value, flag in zip(values, present, strict=False)
    )
    assert np.sum(column.lengths) == len(rows_of(column))


def test_eight_byte_fields() -> None:
    values = np.array([0, 1, 2**53], np.int64)
    assert rows_of(double_column(57, values)) == b"".join(
        varint(57 << 3 | 1) + struct.pack("<d", value) for value in values
    )
    assert rows_of(fixed64_column(47, values)) == b"".join(
        varint(47 << 3 | 1) + struct.pack("<Q", value) for value in values
    )


def test_a_lone_surrogate_does_not_end_the_export() -> None:
    assert text(1, "a\udc80") == b"\x0a\x02a?"
