"""Which memory of this process is a file's or shared, and how much of it is resident."""

from __future__ import annotations

import bisect
import os

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_ENTRY_BYTES = 8  # of /proc/self/pagemap, per page; its top bit: present
_CHUNK_BYTES = 1 << 20
# A look at a model must stay a matter of milliseconds: beyond this, residency is not counted.
RESIDENT_LIMIT_BYTES = 16 << 30
_NOT_PRESENT = bytes(range(128))


class Mappings:
    """The memory map of this process at one moment."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ranges: list[tuple[int, int, str | None]] = []
        with open("/proc/self/maps", "rb") as maps:
            for line in maps:
                kind = _kind_of_line(line)
                first, _, last = line.split(b" ", 1)[0].partition(b"-")
                self._starts.append(int(first, 16))
                self._ranges.append((int(first, 16), int(last, 16), kind))

    def kind(self, address: int) -> str | None:
        """ "mapped" or "shared"; None: anonymous memory, as allocators have it, or not mapped."""
        place = bisect.bisect_right(self._starts, address) - 1
        if place < 0:
            return None
        first, last, kind = self._ranges[place]
        return kind if first <= address < last else None


def _kind_of_line(line: bytes) -> str | None:
    words = line.split(None, 5)
    path = words[5].strip() if len(words) > 5 else b""
    if path.startswith((b"/dev/shm/", b"/memfd:", b"/dev/zero", b"/SYSV")):
        return "shared"
    if not path or path.startswith(b"["):
        return None
    return "mapped"


def resident_bytes(address: int, size_bytes: int) -> int | None:
    """How many bytes of a range are in memory, whole pages; None: too large to count, or hidden."""
    if size_bytes > RESIDENT_LIMIT_BYTES:
        return None
    first, last = address // PAGE_BYTES, -(-(address + size_bytes) // PAGE_BYTES)
    try:
        fd = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    pages = 0
    try:
        at, end = first * _ENTRY_BYTES, last * _ENTRY_BYTES
        while at < end:
            entries = os.pread(fd, min(_CHUNK_BYTES, end - at), at)
            if not entries:
                return None
            # Little-endian: byte 7 of each entry holds the bit.
            pages += len(entries[7::_ENTRY_BYTES].translate(None, _NOT_PRESENT))
            at += len(entries)
    except OSError:
        return None
    finally:
        os.close(fd)
    return min(pages * PAGE_BYTES, size_bytes)
