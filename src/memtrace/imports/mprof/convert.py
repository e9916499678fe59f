"""A .dat as spools: readings as samples, calls of functions as stages, children as processes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from memtrace.errors import MemtraceError
from memtrace.imports.formats import opened
from memtrace.imports.mprof.dat_file import Call, Reading, read_dat
from memtrace.imports.spool import SAMPLE, STAGE_BEGIN, STAGE_END, Spool

_PROGRAM = "program-0-imported"
_MOST_CHILDREN = 10_000
_LACKS = (
    "a .dat of memory_profiler's has samples of the processes' memory alone (RSS, unless mprof was "
    "told another backend): no allocations; with mprof -C the program's include its children's"
)


def convert(path: Path, spools: Path) -> list[str]:
    """Reads a .dat and writes a spool of the program and one of each child.

    Returns:
        What the file does not tell.

    Raises:
        MemtraceError: it is damaged, or holds nothing.
    """
    with opened(path) as file:
        dat = read_dat(io.TextIOWrapper(file, encoding="utf-8", errors="replace", newline="\n"))
    if not dat.readings and not dat.calls:
        raise MemtraceError("it has no samples: it is no .dat of memory_profiler's, or too short")
    if len(dat.children) > _MOST_CHILDREN:
        raise MemtraceError(f"it has {len(dat.children):,} child processes")
    argv = dat.command or [path.name.encode(errors="backslashreplace").decode()]
    bounds = [reading for call in dat.calls for reading in (call.begin, call.end)]
    everything = [*dat.readings, *bounds, *(r for rs in dat.children.values() for r in rs)]
    first_ns = min(reading.time_ns for reading in everything)
    _write(spools, _PROGRAM, first_ns, first_ns, dat.readings, dat.calls, argv=argv)
    for pid, readings in dat.children.items():
        begin_ns = min(reading.time_ns for reading in readings)
        key = f"worker-{pid}-imported"
        _write(spools, key, first_ns, begin_ns, readings, [], pid=pid, argv=argv, parent=_PROGRAM)
    return [_LACKS]


def _write(
    spools: Path, key: str, first_ns: int, begin_ns: int, readings: Sequence[Reading],
    calls: list[Call], *, pid: int = 0, **facts: Any,
) -> None:  # fmt: skip
    """A process that begins at `begin_ns`; the program's first reading is tick 1 of them all."""
    from memtrace import __version__

    spool = Spool(spools / f"process={key}")
    spool.process(
        start_method="imported",
        end_reason="mprof",
        versions={"memtrace": __version__},
        torch_seen=False,
        cpu_on=False,
        hook_error=_LACKS,
        **facts,
    )
    bounds = [reading for call in calls for reading in (call.begin, call.end)]
    last_ns = max(reading.time_ns for reading in (*readings, *bounds))
    notes: list[tuple[int, int, Any]] = [(r.time_ns, SAMPLE, (r, "period")) for r in readings]
    notes += [(reading.time_ns, SAMPLE, (reading, "mark")) for reading in bounds]
    calls.sort(key=lambda call: (call.begin.time_ns, -call.end.time_ns))
    for number, (call, around) in enumerate(zip(calls, _around(calls), strict=True), 1):
        notes.append((call.begin.time_ns, STAGE_BEGIN, (call, number, around)))
        notes.append((call.end.time_ns, STAGE_END, (call, number, around)))
    for time_ns, action, what in sorted(notes, key=lambda note: note[0]):
        ticks = time_ns - first_ns + 1
        if action == SAMPLE:
            reading, reason = what
            spool.note(
                SAMPLE, ticks, "rss", value=reading.value_bytes, target="host", source="rss",
                reason=reason,
            )  # fmt: skip
        else:
            call, number, around = what
            spool.note(action, ticks, call.function, value=number, text="scope", around=around)
    begin, end = (time_ns - first_ns + 1 for time_ns in (begin_ns, last_ns))
    spool.close(start_ticks=begin, end_ticks=end, unix_ns=begin_ns, pid=pid)


def _around(calls: list[Call]) -> list[int]:
    """Of each call, in the order of begin, the number of the one that it is inside of; 0: none."""
    found: list[int] = []
    open_calls: list[tuple[int, int]] = []  # end and number
    for number, call in enumerate(calls, 1):
        while open_calls and open_calls[-1][0] < call.end.time_ns:
            open_calls.pop()
        found.append(open_calls[-1][1] if open_calls else 0)
        open_calls.append((call.end.time_ns, number))
    return found
