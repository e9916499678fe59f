"""Forks that C code makes, of which Python knows nothing; the children go on in Python.

Each allocates and ends in another way, beside new names of its parent. Prints how each ended.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable

import torch

import memtrace

LIBC = ctypes.PyDLL(None)  # the GIL is held meanwhile
kept = [torch.ones(1000)]


def exits() -> None:
    sys.exit(7)


def exits_at_once() -> None:
    os._exit(8)


def fails() -> None:
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    raise ValueError


def marks() -> None:
    with memtrace.stage("of a child"), memtrace.step("of a child"), memtrace.paused():
        memtrace.label(torch.ones(5000), "of a child")
    memtrace.stage("of a child, plain")
    sys.exit(9)


def forks() -> None:
    child = os.fork()
    if child == 0:
        kept.append(torch.ones(6000))
        sys.exit(10)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def starts_a_python() -> None:
    sys.exit(subprocess.run([sys.executable, "-c", "raise SystemExit(11)"], check=False).returncode)


def becomes_another_program() -> None:
    os.execv("/bin/sh", ["sh", "-c", "exit 12"])


ENDS: list[Callable[[], None]] = [
    exits, exits_at_once, fails, marks, forks, starts_a_python, becomes_another_program,
]  # fmt: skip


def main() -> None:
    for end in ENDS:
        sys.stdout.flush()
        child = LIBC.fork()
        if child == 0:
            kept.append(torch.ones(2000).exp())
            kept.clear()
            end()
        exec(f"def after_{end.__name__}(): return torch.ones(3000)")
        kept.append(locals()[f"after_{end.__name__}"]())
        print(end.__name__, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


main()
