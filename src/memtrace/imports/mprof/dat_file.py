"""The lines of a .dat, as memory_profiler 0.61 writes them:

    CMDLINE python train.py
    MEM 83.25 1700000000.1234                                  MiB, seconds since 1970
    CHLD 4711 12.5 1700000000.1301                             pid, MiB, time
    FUNC __main__.step 60.5 1700000000.2 62.0 1700000001.3 1   name, MiB and time of begin and end

mprof reads past a line of any other kind, and so does this.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal

from memtrace.errors import MemtraceError

_MIB = 1 << 20
_PAGE_UNIT = 1024  # what systems count memory in divides by it; the file has six decimals
_NUMBER = re.compile(r"\d{1,15}(?:\.\d{1,12})?")
_PID = re.compile(r"\d{1,18}")
_MOST_NS = 1 << 62


@dataclass(frozen=True)
class Reading:
    """What a process held at a time, in ns since 1970."""

    time_ns: int
    value_bytes: int


@dataclass(frozen=True)
class Call:
    """Of a function that is profiled."""

    function: str
    begin: Reading
    end: Reading


@dataclass
class DatFile:
    """All of it. `children`: by process id."""

    command: list[str] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    children: dict[int, list[Reading]] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)


def read_dat(lines: Iterable[str]) -> DatFile:
    """
    Raises:
        MemtraceError: a line is damaged. A last one that was cut off is left out.
    """
    dat = DatFile()
    for number, line in enumerate(lines, 1):
        kind, _, text = line.rstrip("\n").partition(" ")
        try:
            _add(dat, kind, text)
        except ValueError:
            if line.endswith("\n"):
                raise MemtraceError(f"line {number:,} is no {kind} of memory_profiler's") from None
    return dat


def _add(dat: DatFile, kind: str, text: str) -> None:
    if kind == "CMDLINE":
        dat.command = _words(text)
        return
    words = text.split(" ")
    if kind == "MEM":
        dat.readings.append(_reading(*words[:2]))
    elif kind == "CHLD":
        if not _PID.fullmatch(words[0]):
            raise ValueError(words[0])
        child = int(words[0])
        reading = _reading(*words[1:3])
        if child:  # 0: it ended while it was looked at
            dat.children.setdefault(child, []).append(reading)
    elif kind == "FUNC":
        function, *values = words[:5]
        begin, end = _reading(*values[:2]), _reading(*values[2:])
        dat.calls.append(Call(function, begin, max(begin, end, key=lambda r: r.time_ns)))


def _reading(*words: str) -> Reading:
    if len(words) != 2:
        raise ValueError(words)
    mebibytes, seconds = map(_number, words)
    size, time_ns = round(mebibytes * _MIB), int(seconds * 10**9)
    if max(size, time_ns) >= _MOST_NS:
        raise ValueError(words)
    nearest = round(size / _PAGE_UNIT) * _PAGE_UNIT
    return Reading(time_ns, nearest if abs(nearest - size) <= 1 else size)


def _number(word: str) -> Decimal:
    if not _NUMBER.fullmatch(word):
        raise ValueError(word)
    return Decimal(word)


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:
        return command.split()
