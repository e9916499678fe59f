"""The memory of one process, as its /proc folder has it."""

from __future__ import annotations

import os

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# The kernel walks every page of the process for its shares, and whoever maps memory in it meanwhile
# waits: some 5 ms a GiB.
SHARES_LIMIT_BYTES = 16 << 30
_MOST_BYTES = 1 << 24


def open_folder(pid: int | str) -> int:
    """/proc/PID as a descriptor, which never means a later process of that number.

    Raises:
        OSError: there is no such process here.
    """
    return os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def read(name: str, folder: int | None = None, *, room: int = 65536) -> bytes:
    """A small file, to its end or to `room` bytes; `folder` is what a relative name lies in.

    Raises:
        OSError: it cannot be read; its process is gone, or another user's.
    """
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        parts = []
        while room > 0 and (part := os.read(fd, min(room, 65536))):
            parts.append(part)
            room -= len(part)
        return b"".join(parts)
    finally:
        os.close(fd)


def resident_bytes(folder: int) -> int:
    """RSS; 0 of a process that is dead and not yet reaped."""
    return int(read("statm", folder).split()[1]) * _PAGE_BYTES


def share_bytes(folder: int) -> dict[str, int]:
    """PSS, which divides shared pages among those who share them, and USS, which is without them.

    Empty where the kernel has no /proc/PID/smaps_rollup.
    """
    try:
        text = read("smaps_rollup", folder)
    except FileNotFoundError:
        return {}
    sizes: dict[bytes, int] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and words[2] == b"kB":
            sizes[words[0]] = int(words[1]) << 10
    if b"Pss:" not in sizes:
        return {}
    private = (b"Private_Clean:", b"Private_Dirty:", b"Private_Hugetlb:")
    return {"pss": sizes[b"Pss:"], "uss": sum(sizes.get(name, 0) for name in private)}


def uses_cuda(folder: int) -> bool:
    """Whether the CUDA driver is loaded in it."""
    return b"/libcuda.so" in read("maps", folder, room=_MOST_BYTES)
