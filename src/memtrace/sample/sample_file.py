"""samples.log in a spool: what was read of a process from outside it.

One line a reading: `MONOTONIC_NS TARGET SOURCE METRIC BYTES [TEXT];`, BYTES a number or `-`. It is
written by the sampler alone, only grows, and may be cut anywhere: what has no end is no reading.
TARGET is `host`, `container`, or a GPU by its uuid; `gpu` is any.
"""

from __future__ import annotations

import os
from typing import NamedTuple


class Reading(NamedTuple):
    """One value, and when it was read; none where `text` says why there is none."""

    monotonic_ns: int
    target: str
    source: str
    metric: str
    value_bytes: int | None
    text: str | None = None


NAME = "samples.log"
ANY_GPU = "gpu"
UNAVAILABLE = "unavailable"
_MOST_BYTES = 1 << 62


def open_to_append(spool_dir: str) -> int:
    """
    Raises:
        OSError: the spool is gone, or the disk is full.
    """
    path = os.path.join(spool_dir, NAME)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def to_line(reading: Reading) -> bytes:
    """Its line in the file."""
    value = "-" if reading.value_bytes is None else str(reading.value_bytes)
    words = [str(reading.monotonic_ns), reading.target, reading.source, reading.metric, value]
    if reading.text:
        words.append(" ".join(reading.text.split()))
    return (" ".join(words) + ";\n").encode(errors="replace")


def file_size(spool_dir: str) -> int:
    """In bytes; 0 where there is no file."""
    try:
        return os.stat(os.path.join(spool_dir, NAME)).st_size
    except OSError:
        return 0


def read_samples(spool_dir: str) -> list[Reading]:
    """All whole readings, in the order they were taken; none where there is no file."""
    try:
        with open(os.path.join(spool_dir, NAME), "rb") as file:
            lines = file.read().split(b"\n")
    except OSError:
        return []
    whole = [line[:-1] for line in lines if line.endswith(b";")]
    return [reading for line in whole if (reading := _from_line(line)) is not None]


def _from_line(line: bytes) -> Reading | None:
    words = line.decode("ascii", "replace").split(" ", 5)
    if len(words) < 5:
        return None
    try:
        time_ns = int(words[0])
        value = None if words[4] == "-" else int(words[4])
    except ValueError:
        return None
    if not 0 <= time_ns < _MOST_BYTES or (value is not None and not 0 <= value < _MOST_BYTES):
        return None
    target, source, metric = words[1:4]
    return Reading(time_ns, target, source, metric, value, words[5] if len(words) > 5 else None)
