"""What stays mapped after a recording: all that a thread writes into which is inside a hook still.

python late_thread.py FOLDER     (not under memtrace)
"""

from __future__ import annotations

import shutil
import sys

import torch

import memtrace
from memtrace import recording, session


class LateThread:
    """The native hook, when it has waited in vain for a thread."""

    def __init__(self, native) -> None:
        self.native = native

    def __getattr__(self, name):
        return getattr(self.native, name)

    def stop(self) -> bool:
        self.native.stop()
        return False


def mapped_after(name: str, *, late: bool) -> list[str]:
    with memtrace.record(f"{sys.argv[1]}/{name}.memtrace"):
        torch.ones(10)
        hook = recording.current().hook
        if late:
            hook._native = LateThread(hook._native)
    with open("/proc/self/maps") as maps:
        files = [line.split()[5].rsplit("/", 1)[1] for line in maps if f"/{name}.memtrace/" in line]
    return sorted(set(files))


def main() -> None:
    session._finalise = shutil.rmtree
    print("late:", *mapped_after("a", late=True))
    print("left:", *mapped_after("b", late=False))


main()
