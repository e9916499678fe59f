"""A checksum of a Parquet file's footer, just before it.

Parquet has checksums of pages and none of what says where and what they are; and pyarrow ends the
process at some footers that are damaged, where an error could be told. Other readers go by the
places in the footer, and never come to see what lies between them.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import pyarrow as pa

_MARK = b"memtrace.footer:"
_CHECKSUM_BYTES = 4
_SEAL_BYTES = len(_MARK) + _CHECKSUM_BYTES
_TAIL_BYTES = 8  # the footer's length, and the magic


def seal(path: Path) -> None:
    """Puts the checksum into a finished file."""
    with path.open("r+b") as file:
        file.seek(-_TAIL_BYTES, os.SEEK_END)
        length = int.from_bytes(file.read(4), "little")
        start = file.seek(-_TAIL_BYTES - length, os.SEEK_END)
        footer_and_tail = file.read()
        file.seek(start)
        file.write(_seal_of(footer_and_tail) + footer_and_tail)


def is_whole(file: pa.NativeFile) -> bool:
    """False when the footer is not the one that was sealed.

    True also without a seal: it is another writer's, or what no footer can be, as pyarrow tells.
    """
    size = file.size()
    if size < _TAIL_BYTES:
        return True
    file.seek(size - _TAIL_BYTES)
    length = int.from_bytes(file.read(4), "little")
    start = size - _TAIL_BYTES - length
    if start < _SEAL_BYTES:
        return True
    file.seek(start - _SEAL_BYTES)
    found = file.read(_SEAL_BYTES)
    return not found.startswith(_MARK) or found == _seal_of(file.read())


def _seal_of(footer_and_tail: bytes) -> bytes:
    return _MARK + zlib.crc32(footer_and_tail).to_bytes(_CHECKSUM_BYTES, "little")
