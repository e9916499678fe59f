"""Spools into datasets: one process at a time, streaming, all or nothing."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from memtrace import _core
from memtrace.errors import MemtraceError
from memtrace.finalise.background import BackgroundWriter
from memtrace.finalise.parquet import DatasetWriter, to_table
from memtrace.finalise.processes import process_table
from memtrace.finalise.progress import ProgressBar
from memtrace.finalise.spools import (
    Spool,
    forget_unrecorded,
    has_ended,
    held,
    never_began,
    open_spool,
    same_boot,
    spool_dirs,
)
from memtrace.schema import SCHEMAS

_BATCH_ROWS = 131_072
_PART_ROWS = 262_144  # of `allocations`: sorted in memory, at some 500 bytes a row


@dataclass(frozen=True)
class FinaliseResult:
    """What was converted, and what was left because its process still runs."""

    trace_dir: Path  # where the datasets are: not always where the spools were (see recover)
    keys: tuple[str, ...]
    running: tuple[str, ...]
    events: int
    seconds: float
    # Spools that cannot be read, with the one line that says why; they are left as they are.
    refused: tuple[str, ...] = ()
    # Those of `keys` that did not say themselves that they are at their end.
    cut_off: tuple[str, ...] = ()


def finalise(trace_dir: Path, *, progress: bool = False) -> FinaliseResult:
    """Converts every spool whose process has ended, and deletes it.

    Raises:
        MemtraceError: nothing could be converted, for the reason of the first spool.
    """
    result = _convert_all(trace_dir, trace_dir, progress=progress)
    if result.refused and not result.keys and not result.running:
        raise MemtraceError(result.refused[0])
    return result


def recover(trace_dir: Path, *, progress: bool = False, into: Path | None = None) -> FinaliseResult:
    """The same for what nobody finalised: the spools of killed processes, or of a full disk.

    With `into` the datasets go to another directory and the spools stay. A trace that cannot be
    written to is recovered into a temporary directory, which is gone when this process ends; the
    datasets that were finished are linked into it.
    """
    if into is None and spool_dirs(trace_dir) and not _writable(trace_dir):
        into = Path(tempfile.mkdtemp(prefix="memtrace-"))
        atexit.register(shutil.rmtree, into, ignore_errors=True)
        _link_finished(trace_dir, into)
    return _convert_all(trace_dir, into or trace_dir, progress=progress)


def _writable(trace_dir: Path) -> bool:
    return os.access(trace_dir, os.W_OK | os.X_OK)


def _link_finished(trace_dir: Path, into: Path) -> None:
    for name in SCHEMAS:
        (into / name).mkdir(mode=0o700)
        for finished in (trace_dir / name).glob("process=*"):
            (into / name / finished.name).symlink_to(finished.resolve(), target_is_directory=True)


def _convert_all(trace_dir: Path, target: Path, *, progress: bool) -> FinaliseResult:
    start_s = time.monotonic()
    done: list[str] = []
    running: list[str] = []
    refused: list[str] = []
    cut_off: list[str] = []
    events = 0
    keep_spools = target != trace_dir
    for key, path in spool_dirs(trace_dir).items():
        with held(path) as still_there:
            if not still_there:
                continue
            try:
                spool = open_spool(key, path)
            except MemtraceError as error:
                if never_began(key, path) and not keep_spools:
                    _delete(path)
                else:
                    refused.append(str(error))
                continue
            if not has_ended(spool):
                running.append(key)
                continue
            events += _convert(spool, target, progress=progress)
            done.append(key)
            if not spool.control["complete"]:
                cut_off.append(key)
            if not keep_spools:
                if spool.notes.text("start_method") == "main":
                    forget_unrecorded(path.parent)
                _delete(spool.path)
    seconds = time.monotonic() - start_s
    return FinaliseResult(
        target, tuple(done), tuple(running), events, seconds, tuple(refused), tuple(cut_off)
    )


def _convert(spool: Spool, target: Path, *, progress: bool) -> int:
    """Writes all datasets of a spool under a temporary name, then puts them in place."""
    # Hidden, so that no reader takes it for a dataset; named by process, so that two finalisers of
    # two processes never meet.
    work = target / f".finalising-{spool.key}"
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(mode=0o700)
        events = _write_datasets(spool, work, progress=progress)
        _put_in_place(work, target, spool.key)
    except (OSError, pa.ArrowException) as error:
        shutil.rmtree(work, ignore_errors=True)
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        raise MemtraceError(
            f"cannot write the trace to {target}: {reason}; the recording is kept in {spool.path}"
        ) from error
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return events


def _write_datasets(spool: Spool, work: Path, *, progress: bool) -> int:
    if not spool.control["complete"] and same_boot(spool):
        # The clock still runs: reading it now tells its rate better than a short recording can.
        ticks, monotonic_ns = _core.clock_now()
        spool.reader.add_clock_anchor(ticks=ticks, monotonic_ns=monotonic_ns)
    conversion = _core.Conversion(spool.reader, batch_rows=_BATCH_ROWS, part_rows=_PART_ROWS)
    bar = ProgressBar(spool.reader.records, shown=progress)
    try:
        with ExitStack() as stack:
            writers = {
                name: stack.enter_context(DatasetWriter(work / name, name)) for name in SCHEMAS
            }
            with BackgroundWriter() as background:
                while not conversion.finished:
                    for batch in conversion.advance():
                        table = to_table(batch.dataset, list(batch.columns))
                        background.write(writers[batch.dataset], table, batch.ends_part)
                    bar.update(conversion.consumed)
            totals = conversion.totals()
            rows = {name: writer.rows for name, writer in writers.items() if name != "processes"}
            writers["processes"].write(process_table(spool, totals, rows))
    finally:
        bar.close()
    return int(totals["events"])


def _put_in_place(work: Path, target: Path, key: str) -> None:
    # `processes` comes last: a reader that finds the row finds everything else.
    for name in sorted(SCHEMAS, key=lambda name: name == "processes"):
        place = target / name / f"process={key}"
        place.parent.mkdir(mode=0o700, exist_ok=True)
        if place.exists():  # from a finaliser that was stopped before it could delete the spool
            shutil.rmtree(place)
        (work / name).rename(place)
    work.rmdir()


def _delete(spool_dir: Path) -> None:
    # Renamed first: from here on nobody takes it for a spool that still has to be converted.
    gone = spool_dir.with_name(f".done-{spool_dir.name}")
    try:
        spool_dir.rename(gone)
        shutil.rmtree(gone)
        spool_dir.parent.rmdir()
    except OSError:
        pass  # others' spools are still there, or it cannot be deleted: no harm either way
