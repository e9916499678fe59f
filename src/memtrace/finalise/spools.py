"""The spools of a trace: where they lie, and whether their processes still run."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memtrace import _core
from memtrace.errors import MemtraceError
from memtrace.finalise.notes import Notes, merge_notes

_UNRECORDED = "unrecorded"
_PARTITION = "process="
# A process that started so much later than its spool is another one with the same number.
_REUSED_PID_S = 2.0


@dataclass(frozen=True)
class Spool:
    """One process's spool, opened."""

    key: str
    path: Path
    reader: _core.SpoolReader
    notes: Notes

    @property
    def control(self) -> dict[str, Any]:
        return self.reader.control


def spool_dirs(trace_dir: Path) -> dict[str, Path]:
    """Spools of a trace that are not finalised yet, by the key of their process."""
    found = sorted((trace_dir / "spool").glob(f"{_PARTITION}*"))
    return {path.name[len(_PARTITION) :]: path for path in found if path.is_dir()}


@contextmanager
def held(spool_dir: Path) -> Iterator[bool]:
    """Keeps other finalisers off a spool; waits for one that is at work on it.

    False when the spool is gone: the other one has done it.
    """
    try:
        fd = os.open(spool_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False
        return
    try:
        with suppress(OSError):  # a file system without locks: then without
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield spool_dir.exists()
    finally:
        os.close(fd)


def open_spool(key: str, path: Path) -> Spool:
    """Opens a spool, or says in one line why it cannot be read."""
    try:
        reader = _core.SpoolReader(os.fsencode(path))
    except _core.SpoolError as error:
        raise MemtraceError(str(error)) from error
    return Spool(key, path, reader, merge_notes(reader.process_notes()))


def has_ended(spool: Spool) -> bool:
    """True when nothing will be written to this spool any more."""
    if spool.control["complete"]:
        return True
    if spool.notes.text("host") not in (None, socket.gethostname()):
        return False  # its process cannot be asked for from here
    if not same_boot(spool):
        return True
    return not _is_running(spool.control["pid"], spool.control["start_unix_ns"])


def never_began(key: str, path: Path) -> bool:
    """True for the spool of a process that died while it was making it: there is nothing in it."""
    try:
        if any((path / "control.bin").read_bytes()):
            return False
    except FileNotFoundError:
        if any(file.stat().st_size for file in path.iterdir()):
            return False
    pid = key.rsplit("-", 2)[-2:-1]
    return bool(pid) and pid[0].isdigit() and not Path(f"/proc/{pid[0]}").exists()


def unrecorded_children(spool: Spool) -> int:
    """Children that could not be recorded, counted with the program.

    The finaliser that watched the program has noted them in its spool; where it could not, their
    marks are still there.
    """
    noted = spool.notes.integer("unrecorded_children")
    if noted is None and spool.notes.text("start_method") == "main":
        return len(unrecorded_marks(spool.path.parent))
    return noted or 0


def unrecorded_marks(spools: Path) -> list[Path]:
    """The files that children leave which could not be recorded."""
    return list((spools / _UNRECORDED).glob("*"))


def forget_unrecorded(spools: Path) -> None:
    """Take the marks away: they have been counted."""
    for mark in unrecorded_marks(spools):
        mark.unlink(missing_ok=True)
    with suppress(OSError):  # there is none, or a child has just left another one
        (spools / _UNRECORDED).rmdir()


def same_boot(spool: Spool) -> bool:
    """True when the recording's clock is the clock of this machine, since this start."""
    recorded = spool.notes.text("boot_id")
    return recorded is None or recorded == _boot_id()


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _is_running(pid: int, spool_unix_ns: int) -> bool:
    try:
        # The name of the program may hold spaces and brackets: fields count from the last one.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    state, start_ticks = fields[0], int(fields[19])
    if state in "ZX":
        return False
    uptime_s = float(Path("/proc/uptime").read_text().split()[0])
    age_s = uptime_s - start_ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - age_s <= spool_unix_ns / 1e9 + _REUSED_PID_S
