"""A finished trace attributed again: whenever this is interrupted, the trace is whole.

All files are written beside the trace's first. Then each takes the place of the old one by a
rename: once the first one has, Ctrl-C waits for the last one. Only of a killed process may rows be
of both attributions: a part has the same ones before and after. The numbers of rows that
`processes` has are what a reader checks: those that change are left out of it, and so is the
version of the attribution, until all files are in place.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from memtrace.attribute.rows import DATASETS, attribute_rows
from memtrace.attribute.stages import Place
from memtrace.dataset import parts_in, row_groups_of
from memtrace.dataset_writer import PartWriter
from memtrace.errors import MemtraceError
from memtrace.run.output import UNFINISHED
from memtrace.schema import ATTRIBUTION_VERSION, FORMAT_VERSION, SCHEMAS
from memtrace.trace_json import parsed


def attribute_again(trace_dir: Path, key: str) -> None:
    """Attributes a process of a finished trace, by the rules of this version.

    Raises:
        MemtraceError: the trace cannot be written to, the disk is full, or it is of a format whose
            columns the rules do not know; one line. The trace is what it was.
    """
    folders = [trace_dir, *(trace_dir / name / f"process={key}" for name in DATASETS)]
    for folder in folders:
        _check_writable(folder)
    with _held(trace_dir / "processes" / f"process={key}") as process_dir:
        process = _Process(process_dir)
        version = process.row["format_version"]
        if version is not None and version < FORMAT_VERSION:
            raise MemtraceError(
                f"{trace_dir} was written in format {version}, which has not what the rules need "
                f"(format {FORMAT_VERSION}): record the program again"
            )
        work = trace_dir / f"{UNFINISHED}{key}"
        try:
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(mode=0o700)
            rows = _write(trace_dir, key, work, process.end)
            _put_in_place(trace_dir, key, work, process, rows)
        except (OSError, pa.ArrowException) as error:
            reason = (
                os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
            )
            raise MemtraceError(f"cannot write {trace_dir}: {reason}") from error
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _check_writable(folder: Path) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
        reason = os.strerror(errno.EROFS if read_only else errno.EACCES).lower()
        raise MemtraceError(f"cannot write {folder}: {reason}")


@contextmanager
def _held(folder: Path) -> Iterator[Path]:
    """Waits for another attribution of the process, and keeps the next one waiting."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # a file system without locks: then without
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield folder
    finally:
        os.close(fd)


class _Process:
    """The process's row of `processes`, and the file that it is in."""

    def __init__(self, folder: Path) -> None:
        part = parts_in(folder, "processes")[0]
        self.file = part.path
        (group,) = row_groups_of([part])
        self._table = group.read(SCHEMAS["processes"].names)
        self.row: dict[str, Any] = self._table.to_pylist()[0]
        self._numbers = _numbers_of_rows(self.row["dataset_rows"], self.file)

    @property
    def end(self) -> Place:
        return Place(self.row["events"] or 0, self.row["end_time_ns"] or 0)

    def write(self, path: Path, rows: dict[str, int | None], version: int | None) -> None:
        """The row with other numbers of rows (None: not told), and another version."""
        told = self._numbers
        if told:
            told = {name: n for name, n in {**told, **rows}.items() if n is not None}
        row = {**self.row, "dataset_rows": json.dumps(told), "attribution_version": version}
        if self.row["dataset_rows"] is None:
            row["dataset_rows"] = None
        with PartWriter(path, "processes", SCHEMAS["processes"]) as writer:
            writer.write(pa.Table.from_pylist([row], schema=SCHEMAS["processes"]))


def _numbers_of_rows(text: str | None, file: Path) -> dict[str, Any]:
    told = parsed(text or "{}")
    if not isinstance(told, dict):
        raise MemtraceError(f"{file} is damaged: its dataset_rows tells no numbers of rows")
    return told


def _write(trace_dir: Path, key: str, work: Path, end: Place) -> dict[str, int]:
    for name in DATASETS:
        (work / name).mkdir(mode=0o700)
    rows = attribute_rows(
        lambda name: trace_dir / name / f"process={key}", lambda name: work / name, end
    )
    for file in work.rglob("*.parquet"):
        _sync(file)
    return rows


def _sync(file: Path) -> None:
    """Some file systems say only now that the disk is full; and what it replaces is gone then."""
    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _put_in_place(
    trace_dir: Path, key: str, work: Path, process: _Process, rows: dict[str, int]
) -> None:
    # Both written before anything is renamed: from there on, nothing needs room.
    between, after = work / "between.parquet", work / "after.parquet"
    process.write(between, dict.fromkeys(rows), None)
    process.write(after, dict(rows), ATTRIBUTION_VERSION)
    _sync(between)
    _sync(after)
    renames = [
        (between, process.file),
        *(
            (file, trace_dir / name / f"process={key}" / file.name)
            for name in DATASETS
            for file in sorted((work / name).iterdir())
        ),
        (after, process.file),
    ]
    try:
        _rename(renames)
    except KeyboardInterrupt:
        if not between.exists():
            _rename(rename for rename in renames if rename[0].exists())
        raise


def _rename(renames: Iterable[tuple[Path, Path]]) -> None:
    for file, target in renames:
        file.replace(target)
