"""What memory of this process is a file's, shared or anonymous, and how much of it is there."""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path

from memtrace.hook.mappings import PAGE_BYTES, RESIDENT_LIMIT_BYTES, Mappings, resident_bytes

_PAGES = 64


def address_of(buffer: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def test_kinds(tmp_path: Path) -> None:
    path = tmp_path / "file with spaces"
    path.write_bytes(bytes(_PAGES * PAGE_BYTES))
    with path.open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE)
    shared = mmap.mmap(-1, _PAGES * PAGE_BYTES)  # anonymous and shared: /dev/zero
    private = mmap.mmap(-1, _PAGES * PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    mappings = Mappings()
    assert mappings.kind(address_of(mapped) + PAGE_BYTES) == "mapped"
    assert mappings.kind(address_of(shared)) == "shared"
    assert mappings.kind(address_of(private)) is None
    assert mappings.kind(0) is None
    assert mappings.kind((1 << 64) - 1) is None


def test_resident_pages_are_counted() -> None:
    size = _PAGES * PAGE_BYTES
    buffer = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    buffer.madvise(mmap.MADV_NOHUGEPAGE)
    address = address_of(buffer)
    assert resident_bytes(address, size) == 0
    for page in range(0, _PAGES, 4):
        buffer[page * PAGE_BYTES] = 1
    assert resident_bytes(address, size) == size // 4
    assert resident_bytes(address, 100) == 100  # never more than the tensor has
    assert resident_bytes(address, RESIDENT_LIMIT_BYTES + 1) is None
