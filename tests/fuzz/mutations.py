"""Changes that files suffer, or that somebody makes to them: for any file of bytes."""

from __future__ import annotations

import random
import struct

_INTERESTING = (
    b"\x00", b"\xff", b"\x7f", b"\x80", b"(", b"]", b"}", b"u", b"e", b".", b"q\xff",
    b"r\xff\xff\xff\x7f", b"j\xff\xff\xff\xff", b"\x8b\xff\xff\xff\x7f", b"X\xff\xff\xff\x7f",
    b"\x8d" + b"\xff" * 7 + b"\x7f", b"\x8e" + b"\xff" * 7 + b"\x7f", b"cos\nsystem\n",
    b"cbuiltins\neval\n", b"\x8c\x02os\x8c\x06system\x93", b"R", b"b", b"i", b"o", b"\x81", b"\x92",
    b"P1\n", b"Q", b"\x82\x01", b"\x84\x01\x00\x00\x00", b"\x97", b"\x8a\xff", b"I" + b"9" * 40,
    b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f", b"PAR1",
)  # fmt: skip
_NUMBERS = (0, 1, -1, 511, 1 << 20, 1 << 31, 1 << 48, (1 << 62) + 1, (1 << 63) - 1, -(1 << 63))


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One to a few changes."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        if not changed:
            break
        rng.choice(_KINDS)(changed, rng)
    return bytes(changed)


def _flip_bit(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set_byte(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] = rng.randrange(256)


def _put_in(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.choice(_INTERESTING)


def _put_over(data: bytearray, rng: random.Random) -> None:
    at, what = rng.randrange(len(data)), rng.choice(_INTERESTING)
    data[at : at + len(what)] = what


def _cut_off(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def _cut_out(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.randrange(1, 64)]


def _repeat(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    piece = data[at : at + rng.randrange(1, 200)]
    data[at:at] = piece * rng.choice((1, 2, 50))


def _swap(data: bytearray, rng: random.Random) -> None:
    first, second = rng.randrange(len(data)), rng.randrange(len(data))
    length = rng.randrange(1, 32)
    one, other = data[first : first + length], data[second : second + length]
    data[first : first + length], data[second : second + length] = other, one


def _set_number(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    number = struct.pack("<q", rng.choice(_NUMBERS))[: rng.choice((2, 4, 8))]
    data[at : at + len(number)] = number


_KINDS = (
    _flip_bit, _set_byte, _put_in, _put_over, _cut_off, _cut_out, _repeat, _swap, _set_number,
)  # fmt: skip
