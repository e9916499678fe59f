"""Structs of Thrift's compact protocol: read, and written again as they were."""

from __future__ import annotations

import pytest

from memtrace.attribute import thrift
from memtrace.attribute.thrift import read_struct, write_struct


def test_every_type_is_written_as_it_is_read() -> None:
    struct: thrift.Struct = {
        1: (thrift.I32, -3),
        2: (thrift.TRUE, None),
        5: (thrift.FALSE, None),
        40: (thrift.I64, -(1 << 62)),  # too far from the last one for a short header
        41: (thrift.BINARY, b"x" * 300),
        42: (thrift.LIST, (thrift.I16, list(range(-8, 12)))),  # too long for a short header
        43: (thrift.LIST, (thrift.TRUE, [1, 2])),
        44: (thrift.STRUCT, {7: (thrift.BYTE, 255), 8: (thrift.DOUBLE, b"12345678")}),
        45: (thrift.SET, (thrift.STRUCT, [{}, {1: (thrift.I32, 1)}])),
    }
    assert read_struct(write_struct(struct)) == struct


def test_the_bytes_are_the_protocols() -> None:
    # Field 1: the i32 150, as 300 in two bytes of seven bits; field 17, 16 on, has its own number.
    assert write_struct({1: (thrift.I32, 150), 17: (thrift.I64, -1)}) == bytes(
        [0x15, 0xAC, 0x02, 0x06, 34, 0x01, 0x00]
    )


@pytest.mark.parametrize("data", [b"", b"\x18\x05ab", b"\x1b\x00", b"\x15"])
def test_what_is_no_struct_is_an_error(data: bytes) -> None:
    with pytest.raises((ValueError, IndexError)):
        read_struct(data)
