"""The spools of a trace: where they lie, and what is in them."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memtrace import _core
from memtrace.errors import MemtraceError
from memtrace.finalise.notes import Notes, merge_notes
from memtrace.sample import sample_file

_UNRECORDED = "unrecorded"
_PARTITION = "process="
_DONE = ".done-"
_SPOOL_FILES = (
    "control.bin",
    "windows.bin",
    "records.bin",
    "text.log",
    sample_file.NAME,
)


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
def held(spool_dir: Path, *, wait: bool = True) -> Iterator[bool]:
    """Keeps other finalisers off a spool; waits for one that is at work on it, if it is to wait.

    False when the spool is gone, for the other one has done it; or when that is still at work.
    """
    try:
        fd = os.open(spool_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False
        return
    try:
        free = True
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            free = False
        except OSError:  # a file system without locks: then without
            pass
        yield free and spool_dir.exists()
    finally:
        os.close(fd)


@contextmanager
def windows_held(spool_dir: Path) -> Iterator[None]:
    """Keeps packers off the windows of a spool; waits for one that has one of them in hand."""
    try:
        fd = os.open(spool_dir / "windows.bin", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield
        return
    try:
        with suppress(OSError):  # a file system without locks: then there are no packers
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def open_spool(key: str, path: Path, *, view: Path | None = None) -> Spool:
    """Opens a spool; `view`: see standing_still.

    Raises:
        MemtraceError: it is of another version, or damaged.
    """
    try:
        reader = _core.SpoolReader(view or path)
    except _core.SpoolError as error:
        raise MemtraceError(str(error)) from error
    return Spool(key, path, reader, merge_notes(reader.process_notes()))


def is_blank(path: Path) -> bool:
    """True for a spool into which nothing was written: its process makes it, or died doing so."""
    try:
        return not any((path / "control.bin").read_bytes())
    except FileNotFoundError:
        return not any(file.stat().st_size for file in path.iterdir())


@contextmanager
def standing_still(path: Path, work: Path) -> Iterator[Path]:
    """A view of a spool that may be written to meanwhile; it is made in `work`, and gone after.

    The windows are copied: they are written again and again. All else only grows; it is opened
    after the copy was made, so that what left the windows is found there.
    """
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(mode=0o700, parents=True)
    try:
        with suppress(FileNotFoundError):
            shutil.copyfile(path / "windows.bin", work / "windows.bin")
        packed = sorted(file.name for file in path.glob("packed-*.bin"))
        for name in (*_SPOOL_FILES, *packed):
            if not (work / name).exists():
                (work / name).symlink_to((path / name).resolve())
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def clear_away(spools: Path) -> None:
    """Takes away what finalisers leave that are killed: nothing, while one is at work."""
    if any(spools.glob(f"{_PARTITION}*")):
        return
    for fifo in spools.glob("end.fifo"):
        try:
            os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError:
            continue  # nobody reads
        return
    with suppress(OSError):  # not ours to delete, or somebody begins to record
        for fifo in spools.glob("*.fifo"):
            fifo.unlink(missing_ok=True)
        for done in spools.glob(f"{_DONE}{_PARTITION}*"):
            shutil.rmtree(done, ignore_errors=True)
        spools.rmdir()


def delete_spool(spool_dir: Path) -> None:
    """Deletes a spool that is converted; it may stay, where it cannot be deleted."""
    # Renamed first: from here on nobody takes it for a spool that still has to be converted.
    gone = spool_dir.with_name(f"{_DONE}{spool_dir.name}")
    with suppress(OSError):
        spool_dir.rename(gone)
        shutil.rmtree(gone)


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
