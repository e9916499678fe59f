"""The file that an export goes to: never half of one, never another's. Or standard output."""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from memtrace.errors import MemtraceError

_GZIP_LEVEL = 6
_BUFFER_BYTES = 1 << 20


@contextmanager
def output_file(path: Path, *, force: bool) -> Iterator[IO[bytes]]:
    """A new file, compressed when its name ends in .gz; removed again if writing it fails."""
    if path.is_dir():
        raise MemtraceError(f"{path} is a directory: give the name of a file with -o")
    if path.exists() and not force:
        raise MemtraceError(f"{path} exists: choose another name with -o, or give --force")
    # Written beside its place and renamed: with --force, a failure leaves the old file as it was.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("xb", buffering=_BUFFER_BYTES) as raw:
            if path.suffix == ".gz":
                with gzip.GzipFile(path.stem, "wb", _GZIP_LEVEL, raw, mtime=0) as packed:
                    yield packed  # type: ignore[misc]  # GzipFile is a binary stream
            else:
                yield raw
        partial.replace(path)
    except OSError as error:
        raise MemtraceError(f"cannot write {path}: {_reason(error)}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


@contextmanager
def standard_output() -> Iterator[IO[bytes]]:
    """Standard output as bytes, for a pipe or a redirection; never a terminal."""
    if sys.stdout.isatty():
        raise MemtraceError("not on a terminal: send it to a file (-o FILE) or into a pipe")
    sys.stdout.flush()
    yield sys.stdout.buffer
    sys.stdout.buffer.flush()


def _reason(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "no space left on the disk"
    return (error.strerror or str(error)).lower()
