"""Spools into datasets: one process at a time, streaming, all or nothing."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Container, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from memtrace import _core
from memtrace.attribute.rows import DATASETS, attribute_rows
from memtrace.attribute.stages import Place
from memtrace.dataset_writer import DatasetWriter
from memtrace.errors import MemtraceError
from memtrace.finalise.background import BackgroundWriter
from memtrace.finalise.compaction import Compaction
from memtrace.finalise.process_files import (
    BATCH_ROWS,
    PART_ROWS,
    ProcessFiles,
    make_anew,
    work_folder,
)
from memtrace.finalise.processes import end_time_ns, process_table
from memtrace.finalise.spools import (
    Spool,
    clear_away,
    delete_spool,
    forget_unrecorded,
    held,
    is_blank,
    open_spool,
    same_boot,
    spool_dirs,
    standing_still,
    windows_held,
)
from memtrace.progress import progress as progress_bar
from memtrace.schema import SCHEMAS

_ATTRIBUTED = "attributed"  # where what attribution writes waits for what it replaces


@dataclass(frozen=True)
class FinaliseResult:
    """What was converted, and what was left because its process still runs."""

    keys: tuple[str, ...]
    running: tuple[str, ...]
    events: int
    seconds: float
    # Why a spool is left as it is: a line for each that cannot be read, or not be converted.
    refused: tuple[str, ...] = ()
    # Those of `keys` that did not say themselves that they are at their end.
    cut_off: tuple[str, ...] = ()
    # Processes of which it cannot be told from here whether they still run, with their hosts.
    unsure: tuple[tuple[str, str], ...] = ()


def finalise(
    trace_dir: Path,
    *,
    progress: bool = False,
    compactions: Mapping[str, Compaction] | None = None,
    keys: Container[str] | None = None,
) -> FinaliseResult:
    """Converts every spool whose process has ended, and deletes it.

    Args:
        trace_dir: The trace.
        progress: Show a bar when it takes long and stderr is a terminal.
        compactions: What was written already while processes ran, by the keys of their spools.
            Those that are not among the result's are the caller's still: to go on, or to abandon.
        keys: Of these spools alone.

    Raises:
        MemtraceError: nothing could be converted, for the reason of the first spool.
    """
    conversion = _Conversion(
        trace_dir, trace_dir, progress=progress, compactions=compactions or {}, keys=keys
    )
    result = conversion.run()
    if result.refused and not result.keys and not result.running:
        raise MemtraceError(result.refused[0])
    return result


def recover(
    trace_dir: Path, *, progress: bool = False, into: Path | None = None, force: bool = False
) -> FinaliseResult:
    """The same for what nobody finalised: the spools of killed processes, or of a full disk.

    Args:
        trace_dir: The trace.
        progress: Show a bar when it takes long and stderr is a terminal.
        into: Another directory for the datasets. The spools stay, and those of processes that may
            still run are converted as far as they go.
        force: Take processes that may still run for ended. Such as are known to run are left.

    Raises:
        MemtraceError: the trace cannot be written to.
    """
    if into is None and spool_dirs(trace_dir):
        for folder in (trace_dir, trace_dir / "spool"):
            _check_writable(folder)
    result = _Conversion(trace_dir, into or trace_dir, progress=progress, force=force).run()
    if into is None:
        clear_away(trace_dir / "spool")
    return result


def _check_writable(folder: Path) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
        reason = os.strerror(errno.EROFS if read_only else errno.EACCES).lower()
        raise MemtraceError(f"cannot write {folder}: {reason}")


class _Conversion:
    """One pass over the spools of a trace."""

    def __init__(
        self,
        trace_dir: Path,
        target: Path,
        *,
        progress: bool,
        force: bool = False,
        compactions: Mapping[str, Compaction] = MappingProxyType({}),
        keys: Container[str] | None = None,
    ) -> None:
        self._trace_dir = trace_dir
        self._target = target
        self._keep_spools = target != trace_dir
        self._progress = progress
        self._force = force
        self._compactions = compactions
        self._keys = keys
        self._done: list[str] = []
        self._running: list[str] = []
        self._refused: list[str] = []
        self._cut_off: list[str] = []
        self._unsure: list[tuple[str, str]] = []
        self._events = 0

    def run(self) -> FinaliseResult:
        start_s = time.monotonic()
        for key, path in spool_dirs(self._trace_dir).items():
            if self._keys is not None and key not in self._keys:
                continue
            try:
                with held(path) as still_there, windows_held(path):
                    if still_there:
                        self._take(key, path)
            except MemtraceError as error:
                self._refused.append(str(error))
            except Exception as error:  # whatever is wrong with it, the others are converted
                if os.environ.get("MEMTRACE_DEBUG"):
                    raise
                self._refused.append(
                    f"cannot convert {path}: {type(error).__name__}: {_in_one_line(error)}; "
                    "the recording is kept there"
                )
        if not self._keep_spools:
            with suppress(OSError):  # others' spools are still there
                (self._trace_dir / "spool").rmdir()
        return FinaliseResult(
            keys=tuple(self._done),
            running=tuple(self._running),
            events=self._events,
            seconds=time.monotonic() - start_s,
            refused=tuple(self._refused),
            cut_off=tuple(self._cut_off),
            unsure=tuple(self._unsure),
        )

    def _take(self, key: str, path: Path) -> None:
        # Asked before the spool is opened: then all that an ended process wrote is in the files.
        life = _core.writer_life(str(path))
        if life != "unknown" and is_blank(path):
            if life == "running":
                self._running.append(key)
            elif not self._keep_spools:
                delete_spool(path)
            return
        spool = open_spool(key, path)
        if spool.control["complete"] or life == "ended":
            self._finish(spool)
        elif life == "running":
            self._running.append(key)
        elif self._force:
            self._finish(spool)
        else:
            self._unsure.append((key, spool.notes.text("host") or "unknown"))
            if self._keep_spools:
                with standing_still(path, self._target / f".reading-{key}") as view:
                    self._write(open_spool(key, path, view=view), may_run=True)

    def _finish(self, spool: Spool) -> None:
        self._write(spool)
        if not spool.control["complete"]:
            self._cut_off.append(spool.key)
        if not self._keep_spools:
            if spool.notes.text("start_method") == "main":
                forget_unrecorded(spool.path.parent)
            delete_spool(spool.path)

    def _write(self, spool: Spool, *, may_run: bool = False) -> None:
        if may_run:
            spool.notes.setdefault("end_reason", "unknown")
        self._events += _convert(
            spool,
            self._target,
            progress=self._progress,
            compaction=self._compactions.get(spool.key),
        )
        self._done.append(spool.key)


def _convert(
    spool: Spool, target: Path, *, progress: bool, compaction: Compaction | None = None
) -> int:
    """Writes all datasets of a spool under a temporary name, then puts them in place."""
    work = work_folder(target, spool.key)
    try:
        events = _write_datasets(spool, work, progress=progress, compaction=compaction)
        _put_in_place(work, target, spool.key)
    except (OSError, pa.ArrowException) as error:
        shutil.rmtree(work, ignore_errors=True)
        reason = _in_one_line(error)
        if isinstance(error, OSError) and error.errno:
            reason = os.strerror(error.errno)
        raise MemtraceError(
            f"cannot write the trace to {target}: {reason}; the recording is kept in {spool.path}"
        ) from error
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return events


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _write_datasets(
    spool: Spool, work: Path, *, progress: bool, compaction: Compaction | None
) -> int:
    written = None
    if compaction is not None:
        try:
            written = compaction.finish(spool)
        except Exception:  # all of the spool is still there
            compaction.abandon()
            if os.environ.get("MEMTRACE_DEBUG"):
                raise
    if written is None:
        make_anew(work)
        written = _write_events(spool, work, progress=progress)
    totals, rows = written
    pa.default_memory_pool().release_unused()  # with use_little_memory, malloc's as well
    rows |= _attribute(spool, work, totals)
    with DatasetWriter(work / "processes", "processes") as writer:
        writer.write(process_table(spool, totals, rows))
    return int(totals["events"])


def _write_events(
    spool: Spool, work: Path, *, progress: bool
) -> tuple[dict[str, Any], dict[str, int]]:
    """All datasets but `processes`: the totals of the conversion, and the numbers of rows."""
    if not spool.control["complete"] and same_boot(spool):
        # The clock still runs: reading it now tells its rate better than a short recording can.
        ticks, monotonic_ns = _core.clock_now()
        spool.reader.add_clock_anchor(ticks=ticks, monotonic_ns=monotonic_ns)
    conversion = _core.Conversion(spool.reader, batch_rows=BATCH_ROWS, part_rows=PART_ROWS)
    consumed = 0
    with ExitStack() as stack:
        origin_ns = spool.control["start_monotonic_ns"]
        files = stack.enter_context(ProcessFiles(work, spool.path, origin_ns=origin_ns))
        advance = stack.enter_context(
            progress_bar("writing the trace", total=spool.reader.records, shown=progress)
        )
        with BackgroundWriter(files.write) as background:
            while not conversion.finished:
                for batch in conversion.advance():
                    background.write(batch)
                advance(conversion.consumed - consumed)
                consumed = conversion.consumed
        rows = files.finish(spool)
    return conversion.totals(), rows


def _attribute(spool: Spool, work: Path, totals: dict[str, Any]) -> dict[str, int]:
    """Gives the rows their meaning; the numbers of rows that changed thereby."""
    attributed = work / _ATTRIBUTED
    for name in DATASETS:
        (attributed / name).mkdir(mode=0o700, parents=True)
    end = Place(totals["events"], end_time_ns(spool, totals) or 0)
    rows = attribute_rows(lambda name: work / name, lambda name: attributed / name, end)
    for name in DATASETS:
        for file in (attributed / name).iterdir():
            file.replace(work / name / file.name)
    shutil.rmtree(attributed)
    return rows


def _put_in_place(work: Path, target: Path, key: str) -> None:
    # `processes` comes last: a reader that finds the row finds everything else.
    for name in sorted(SCHEMAS, key=lambda name: name == "processes"):
        place = target / name / f"process={key}"
        place.parent.mkdir(mode=0o700, exist_ok=True)
        if place.exists():  # from a finaliser that was stopped before it could delete the spool
            shutil.rmtree(place)
        (work / name).rename(place)
    work.rmdir()
