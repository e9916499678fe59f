"""Processes that are not recorded: each leaves a file spool/unrecorded/PID in the trace."""

from __future__ import annotations

import os

from memtrace import recording


def leave_mark(trace_dir: str, pid: int, reason: str) -> None:
    """Count a process that could not be recorded; its pid is the file's name, so once only."""
    try:
        folder = os.path.join(trace_dir, "spool", "unrecorded")
        try:
            os.mkdir(folder, 0o700)  # its parent is gone when the trace is finished
        except FileExistsError:
            pass
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        fd = os.open(os.path.join(folder, str(pid)), flags, 0o600)
        try:
            os.write(fd, reason.encode(errors="replace"))
        finally:
            os.close(fd)
    except OSError:
        pass


def forget_mark(trace_dir: str, pid: int) -> None:
    """Take it back, if there is one."""
    try:
        os.unlink(os.path.join(trace_dir, "spool", "unrecorded", str(pid)))
    except OSError:
        pass


def count_forked() -> None:
    """At the end of a child, or where it begins anew: if only C code knew of the fork, count it.

    A fork() that Python did not make (daemon(), a library) tells us nothing but that what was on is
    on no more. Whether the child goes on in Python, and not as another program, its end says.
    """
    parents = recording.parents()
    if parents is not None:
        leave_mark(parents.trace_dir, os.getpid(), "forked by C code")
