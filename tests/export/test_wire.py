"""The wire format against protobuf's own encoder."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from memtrace.export.wire import constant_column, join, lengths, text, varint, varint_column


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


@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=30))
def test_a_column_is_its_values_one_after_the_other(values: list[int]) -> None:
    column = varint_column(np.array(values, np.int64))
    assert join(column) == b"".join(map(varint, values))
    assert lengths(column).tolist() == [len(varint(value)) for value in values]
    mixed = join(constant_column(len(values), b"ab"), column)
    assert mixed == b"".join(b"ab" + varint(value) for value in values)


def test_a_lone_surrogate_does_not_end_the_export() -> None:
    assert text(1, "a\udc80") == b"\x0a\x02a?"
