"""How the watched program ended, as told by itself or by the kernel, put into its spool."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
from dataclasses import dataclass
from pathlib import Path

from memtrace.finalise.spools import forget_unrecorded, unrecorded_marks
from memtrace.run.ending import seal
from memtrace.run.output import pid_of_key


@dataclass(frozen=True)
class ProcessEnd:
    """What is known; nothing, when the process was simply gone."""

    exit_status: int | None = None
    signal_name: str | None = None
    announced: bool = False  # the program said so itself, at the very end of its exit


# struct pidfd_info of Linux 6.13, whose exit_code the kernel fills since 6.15.
_PIDFD_GET_INFO = 0xC040FF0B
_PIDFD_INFO_EXIT = 1 << 3
_PIDFD_INFO = struct.Struct("=QQ11Ii")


def exit_of_pid_fd(pid_fd: int, pid: int) -> ProcessEnd:
    """How a process that is gone ended: a kernel before 6.15 tells only if it is not reaped yet."""
    wait_status = _wait_status_of_pid_fd(pid_fd)
    if wait_status is None:
        wait_status = _wait_status_of_zombie(pid)
    if wait_status is None:
        return ProcessEnd()
    if os.WIFSIGNALED(wait_status):
        number = os.WTERMSIG(wait_status)
        try:
            return ProcessEnd(signal_name=signal.Signals(number).name)
        except ValueError:
            return ProcessEnd(signal_name=f"signal {number}")
    return ProcessEnd(exit_status=os.WEXITSTATUS(wait_status))


def _wait_status_of_pid_fd(pid_fd: int) -> int | None:
    buffer = bytearray(_PIDFD_INFO.pack(_PIDFD_INFO_EXIT, *[0] * 13))
    try:
        fcntl.ioctl(pid_fd, _PIDFD_GET_INFO, buffer)
    except OSError:
        return None
    fields = _PIDFD_INFO.unpack(buffer)
    return int(fields[-1]) if fields[0] & _PIDFD_INFO_EXIT else None


def _wait_status_of_zombie(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = stat.rpartition(b") ")[2].split()
    return int(fields[-1]) if fields[:1] == [b"Z"] else None


def seal_main(trace_dir: Path, pid: int, end: ProcessEnd) -> None:
    """Note the end of the program, and what was found out about its children, in its spool."""
    keys = sorted(
        folder.name.removeprefix("process=")
        for folder in (trace_dir / "spool").glob("process=*")
        if pid_of_key(folder.name) == pid
    )
    if not keys:
        return
    key = keys[-1]  # of several (exec) the last: the start time ends the name
    spools = trace_dir / "spool"
    facts: dict[str, object] = {"unrecorded_children": len(unrecorded_marks(spools))}
    if end.signal_name:
        facts["end_reason"] = f"signal {end.signal_name}"
    elif not end.announced and end.exit_status is None:
        facts["end_reason"] = "unknown"
    seal(str(trace_dir), key, facts, exit_status=end.exit_status, complete=end.announced)
    forget_unrecorded(spools)
