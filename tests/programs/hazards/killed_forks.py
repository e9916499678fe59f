"""Imports torch once, then forks recorded children that count until they are killed.

    python killed_forks.py FOLDER COUNT SEED      (not under memtrace)

Each child records itself into FOLDER/N.memtrace from its first moment on; the time of its death is
random. Prints, as JSON, [trace, the last number that the child said, or 0] per child.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sys
import time

import counting
import torch

import memtrace

_LATEST_S = 0.25


def child(trace: str, fd: int) -> None:
    """Never returns."""
    torch.set_num_threads(1)
    memtrace.record(trace).start()
    counting.count(fd)


def said_until_killed(pid: int, fd: int, after_s: float) -> int:
    """Kills the child after this time; how many numbers it has said by then: 1, 2, 3, ..."""
    end_s = time.monotonic() + after_s
    said_bytes = 0
    while (left_s := end_s - time.monotonic()) > 0:
        if select.select([fd], [], [], left_s)[0]:
            said_bytes += len(os.read(fd, 1 << 16))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    while piece := os.read(fd, 1 << 16):  # its last words
        said_bytes += len(piece)
    return said_bytes // counting.WORD_BYTES


def main() -> None:
    folder, count, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    chance = random.Random(seed)
    found = []
    for number in range(count):
        trace = f"{folder}/{number}.memtrace"
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            child(trace, writer)
        os.close(writer)
        found.append((trace, said_until_killed(pid, reader, chance.random() * _LATEST_S)))
        os.close(reader)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
