"""The file that an export goes to: never half of one, never another's. Or a pipe, a device."""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from memtrace.errors import MemtraceError

_GZIP_LEVEL = 6
_BUFFER_BYTES = 1 << 20
_NO_TERMINAL = "not on a terminal: send it to a file (-o FILE) or into a pipe"


@contextmanager
def output_file(path: Path, *, force: bool) -> Iterator[IO[bytes]]:
    """A new file, compressed when its name ends in .gz; removed again if writing it fails.

    A pipe or a character device (/dev/null, >(command)) is written to as it is.
    """
    try:
        mode = _mode(path)
        if stat.S_ISDIR(mode):
            raise MemtraceError(f"{path} is a directory: give the name of a file with -o")
        if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            place = _existing(path)
        elif mode and not stat.S_ISREG(mode):
            raise MemtraceError(f"{path} is no file: choose another name with -o")
        elif os.path.lexists(path) and not force:
            raise _exists(path)
        else:
            place = _new(path, force=force)
        with place as raw:
            if path.suffix == ".gz":
                with gzip.GzipFile(path.stem, "wb", _GZIP_LEVEL, raw, mtime=0) as packed:
                    yield packed  # type: ignore[misc]  # GzipFile is a binary stream
            else:
                yield raw
    except BrokenPipeError:  # the reader has seen enough
        raise
    except OSError as error:
        raise MemtraceError(f"cannot write {path}: {_reason(error)}") from error


def _mode(path: Path) -> int:
    """What is there, a link followed; 0: nothing."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return 0


@contextmanager
def _existing(path: Path) -> Iterator[IO[bytes]]:
    # Not created: should it be gone by now, no file takes its place.
    with os.fdopen(os.open(path, os.O_WRONLY), "wb", _BUFFER_BYTES) as raw:
        if raw.isatty():
            raise MemtraceError(_NO_TERMINAL)
        yield raw


@contextmanager
def _new(path: Path, *, force: bool) -> Iterator[IO[bytes]]:
    # A link stays one: it is what it leads to that is replaced.
    place = Path(os.path.realpath(path))
    # Written beside its place and renamed: with --force, a failure leaves the old file as it was.
    partial = place.with_name(f".{place.name}.{os.getpid()}.partial")
    try:
        with partial.open("xb", buffering=_BUFFER_BYTES) as raw:
            yield raw
        if force:
            partial.replace(place)
        else:
            _put(partial, place, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _put(partial: Path, place: Path, path: Path) -> None:
    """Gives the file its name, unless another has taken that while it was written."""
    try:
        os.link(partial, place)
    except FileExistsError:
        raise _exists(path) from None
    except OSError:  # a file system without links
        if os.path.lexists(place):
            raise _exists(path) from None
        partial.replace(place)


def _exists(path: Path) -> MemtraceError:
    return MemtraceError(f"{path} exists: choose another name with -o, or give --force")


@contextmanager
def standard_output() -> Iterator[IO[bytes]]:
    """Standard output as bytes, for a pipe or a redirection; never a terminal."""
    if sys.stdout.isatty():
        raise MemtraceError(_NO_TERMINAL)
    sys.stdout.flush()
    yield sys.stdout.buffer
    sys.stdout.buffer.flush()


def _reason(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "no space left on the disk"
    return (error.strerror or str(error)).lower()
