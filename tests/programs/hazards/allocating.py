"""Allocates until it has seen enough, and says what it did: the same with any disk.

    python allocating.py ALLOCATIONS [WHAT]

WHAT: `forks` (children that go on allocating in the parent's place), `small_files` (a limit on the
size of files, with the signal's default action), `remove` (the folder of its trace goes).
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys

import torch


def allocate(count: int) -> int:
    """The sum of what was computed."""
    total = 0
    kept: list[torch.Tensor] = []
    for i in range(count):
        x = torch.full((i % 50 + 1,), 3, dtype=torch.int64)
        if i % 1000 == 0:
            kept.append(x)
            total += int(x.sum())
    return total


def main() -> int:
    count = int(sys.argv[1])
    what = sys.argv[2] if len(sys.argv) > 2 else ""
    total = allocate(count // 2)
    if what == "small_files":
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    if what == "remove":
        shutil.rmtree(os.environ["MEMTRACE_RECORD"])
    if what == "forks":
        for status in (3, 4):
            child = os.fork()
            if child == 0:
                print("child", allocate(count // 4), flush=True)
                os._exit(status)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    total += allocate(count // 2)
    print(total)
    return 7


if __name__ == "__main__":
    sys.exit(main())
