"""The opened trace: the one value that every later stage takes (FORMAT.md is its contract)."""

from __future__ import annotations

import os
import shutil
import sys
import weakref
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from memtrace.dataset import Dataset
from memtrace.errors import MemtraceError, encodable, readable
from memtrace.schema import FORMAT_VERSION, SCHEMAS
from memtrace.shown import Shown
from memtrace.trace_json import parsed, parsed_object

if TYPE_CHECKING:
    from memtrace.analyse.ledger import Ledger
    from memtrace.analyse.peak import Peak
    from memtrace.analyse.snapshot import Snapshot
    from memtrace.report.page import Block

SPOOL = "spool"
_PARTITION = "process="


@dataclass(frozen=True)
class Dropped:
    """Allocations that `run --max-disk` has left out: no larger ones than `largest_bytes`."""

    allocations: int
    largest_bytes: int
    max_disk_bytes: int


@dataclass(frozen=True)
class Process:
    """One recorded process: its row of `processes`, with the key that its files go by."""

    key: str
    row: dict[str, Any]

    @property
    def pid(self) -> int:
        return int(self.row["pid"] or 0)

    @property
    def rank(self) -> int | None:
        rank: int | None = self.row["rank"]
        return rank

    @property
    def argv(self) -> list[str] | None:
        """The program's arguments, or None where they were withheld."""
        text = self.row["argv"]
        if not text or self.row["argv_withheld"]:
            return None
        words = parsed(text)
        if words is None:
            return [str(text)]
        return [readable(str(word)) for word in (words if isinstance(words, list) else [words])]

    @property
    def device_names(self) -> dict[str, str]:
        """Devices as the driver names them: {"cuda:0": "NVIDIA H100 80GB HBM3"}."""
        listed = self.listed("devices")
        return {str(d.get("device")): encodable(str(d.get("name") or "")) for d in listed}

    @property
    def paused_intervals(self) -> list[tuple[int, int | None]]:
        """When recording was paused, (start_ns, end_ns); an end of None: until the end."""
        found = parsed(self.row.get("paused_intervals"))
        pairs = found if isinstance(found, list) else []
        return [
            (pair[0], pair[1])
            for pair in pairs
            if isinstance(pair, list)
            and len(pair) == 2
            and type(pair[0]) is int
            and (pair[1] is None or type(pair[1]) is int)
        ]

    @property
    def paused_peaks(self) -> dict[str, int]:
        """The most bytes that torch counted allocated in pauses, where that is more than before."""
        items = parsed_object(self.row.get("paused_peaks")).items()
        return {device: most for device, most in items if type(most) is int}

    def listed(self, column: str) -> list[dict[str, Any]]:
        """A column that holds a JSON list of objects; empty when it holds none."""
        value = parsed(self.row.get(column))
        return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []

    @property
    def dataset_rows(self) -> dict[str, int]:
        """How many rows were written of each dataset; empty in an older trace."""
        told = parsed_object(self.row.get("dataset_rows"))
        return {name: rows for name, rows in told.items() if isinstance(rows, int)}

    @property
    def dropped(self) -> Dropped | None:
        """What was left out of its rows; None: nothing."""
        told = parsed_object(self.row.get("dropped"))
        figures: list[Any] = [told.get(field.name) for field in fields(Dropped)]
        return Dropped(*figures) if all(type(figure) is int for figure in figures) else None

    def __str__(self) -> str:
        return f"process {self.pid}" + (f" (rank {self.rank})" if self.rank is not None else "")


@dataclass(frozen=True)
class Spools:
    """Where a trace's finished datasets are, and who still writes.

    Attributes:
        roots: the trace, and the place where the spools of a trace that cannot be written to were
            finished.
        scratch: the latter place, deleted with the Trace.
    """

    roots: tuple[Path, ...]
    running: tuple[str, ...] = ()
    scratch: Path | None = None


class Trace(Shown):
    """A recording, opened for reading. Tables are read when first asked for and then kept."""

    def __init__(self, path: Path, spools: Spools | None = None) -> None:
        self.path = path
        self._spools = spools or Spools((path,))
        self.datasets = {name: Dataset(self._spools.roots, name) for name in SCHEMAS}
        self._tables: dict[str, pa.Table] = {}
        if self._spools.scratch is not None:
            weakref.finalize(self, shutil.rmtree, self._spools.scratch, ignore_errors=True)

    @property
    def roots(self) -> tuple[Path, ...]:
        """The directories that the datasets are read from."""
        return self._spools.roots

    @property
    def running(self) -> tuple[str, ...]:
        """Keys of processes that are still running: their rows are not in the tables yet."""
        return self._spools.running

    def __repr__(self) -> str:
        number = len(self.process_list)
        word = "process" if number == 1 else "processes"
        return f"<memtrace.Trace {str(self.path)!r}: {number:,} {word}>"

    def _page(self) -> list[Block]:
        from memtrace.analyse.overview import take_overview
        from memtrace.report.overview import overview_page

        return overview_page(take_overview(self))

    def _table(self, name: str) -> pa.Table:
        if name not in self._tables:
            self._tables[name] = self.datasets[name].read()
        return self._tables[name]

    @property
    def allocations(self) -> pa.Table:
        """One row per allocation, attributed."""
        return self._table("allocations")

    @property
    def events(self) -> pa.Table:
        """Every allocator event, with the running totals of its device."""
        return self._table("events")

    @property
    def segments(self) -> pa.Table:
        """What the caching allocator held of the device."""
        return self._table("segments")

    @property
    def operators(self) -> pa.Table:
        """Operator calls in which something was allocated or freed."""
        return self._table("operators")

    @property
    def stacks(self) -> pa.Table:
        """Frames of every distinct stack, innermost first."""
        return self._table("stacks")

    @property
    def names(self) -> pa.Table:
        """Names of tensors, by allocation."""
        return self._table("names")

    @property
    def stages(self) -> pa.Table:
        """Stages of the program, nested."""
        return self._table("stages")

    @property
    def steps(self) -> pa.Table:
        """Calls of root modules."""
        return self._table("steps")

    @property
    def samples(self) -> pa.Table:
        """Readings of counters: torch's, the host's, the driver's."""
        return self._table("samples")

    @property
    def marks(self) -> pa.Table:
        """What a replay needs beyond events."""
        return self._table("marks")

    @property
    def timeline(self) -> pa.Table:
        """Each device's use over time, binned."""
        return self._table("timeline")

    @property
    def processes(self) -> pa.Table:
        """One row per recorded process."""
        return self._table("processes")

    @cached_property
    def process_list(self) -> list[Process]:
        """The recorded processes, parents before children."""
        rows = self.processes.to_pylist()
        rows.sort(key=lambda row: (row["clock_origin_ns"] or 0, row["process"]))
        return [Process(row.pop("process"), row) for row in rows]

    @cached_property
    def devices_by_process(self) -> dict[str, list[str]]:
        """Devices with at least one event, by process key."""
        return {process.key: self._devices_of(process.key) for process in self.process_list}

    @property
    def devices(self) -> list[str]:
        """Every device that the trace has events of, accelerators first."""
        found = {device for devices in self.devices_by_process.values() for device in devices}
        return sorted(found, key=device_order)

    def _devices_of(self, key: str) -> list[str]:
        found: set[str | None] = set()
        for group in self.datasets["events"].row_groups(key):
            bounds = group.bounds("device")
            if bounds is not None and bounds.low is not None and bounds.low == bounds.high:
                found.add(bounds.low)
                continue
            # The dictionary of the column's pages: no need to look at every row.
            chunks: list[Any] = group.read(["device"]).column("device").chunks
            for chunk in chunks:
                found.update(chunk.dictionary.to_pylist())
        return sorted((device for device in found if device is not None), key=device_order)

    def peak(
        self,
        device: str | None = None,
        of: str = "allocated",
        *,
        by: str = "operator",
        process: str | int | None = None,
    ) -> Peak:
        """The instant at which a device held most, who held it, and the allocation that reached it.

        Args:
            device: such as "cuda:0" or "cpu"; the only accelerator, or the CPU, when left out.
            of: which bytes: "allocated", "active", "reserved" or "requested".
            by: the column that `Peak.breakdown` groups by.
            process: key or pid; by default the process whose peak on the device is the largest.
        """
        # Imported upwards, only here and in the methods that follow: they are sugar for notebooks.
        from memtrace.analyse.peak import find_peak

        return find_peak(self, device=device, of=of, by=by, process=process)

    def at(
        self,
        time_ns: int,
        device: str | None = None,
        *,
        of: str = "allocated",
        by: str = "operator",
        process: str | int | None = None,
    ) -> Snapshot:
        """What was live on a device at an instant, in ns since the recording began."""
        from memtrace.analyse.snapshot import take_snapshot

        return take_snapshot(self, time_ns, device=device, of=of, by=by, process=process)

    def sql(self, query: str) -> pa.Table:
        """Rows of a SELECT in SQL (DuckDB), in which every dataset is a view.

        Raises:
            MemtraceError: DuckDB is not installed, or refuses the query.
        """
        from memtrace.sql import query as ask

        return ask(self, query)

    def stages_ledger(
        self, device: str | None = None, *, process: str | int | None = None
    ) -> Ledger:
        """What each stage held of each device, at its peak and at its end, as sums that reconcile.

        Args:
            device: only this one; all that the process used when left out.
            process: key or pid; by default the process whose peak is the largest.
        """
        from memtrace.analyse.ledger import make_ledger

        return make_ledger(self, device=device, process=process, top=None)


def device_order(device: str) -> tuple[bool, str, int]:
    """Sort key: accelerators by number, then the CPU."""
    kind, _, index = device.partition(":")
    return (kind == "cpu", kind, int(index) if index.isdigit() else -1)


def open_trace(path: str | os.PathLike[str]) -> Trace:
    """Opens a trace (`memtrace.open`); finishes first what a killed process left behind.

    Raises:
        MemtraceError: one line that says what is wrong with the path and what to do.
    """
    trace_dir = Path(path)
    try:
        if not trace_dir.exists():
            raise MemtraceError(f"{trace_dir}: no such trace")
        if not trace_dir.is_dir():
            raise MemtraceError(f"{trace_dir} is a file; a trace is a directory, NAME.memtrace")
        spools = _finish_spools(trace_dir)
        trace = Trace(trace_dir, spools)
        _check(trace)
    except PermissionError as error:
        raise MemtraceError(
            f"{error.filename or trace_dir}: permission denied (traces are private to their user)"
        ) from error
    return trace


open = open_trace  # noqa: A001  # the name that the package exports


def spool_keys(trace_dir: Path) -> tuple[str, ...]:
    """Processes whose records are still raw: running, or killed."""
    spool = trace_dir / SPOOL
    names = sorted(entry.name for entry in spool.iterdir()) if spool.is_dir() else []
    return tuple(name.removeprefix(_PARTITION) for name in names if name.startswith(_PARTITION))


def _finish_spools(trace_dir: Path) -> Spools:
    if not spool_keys(trace_dir):
        return Spools((trace_dir,))
    # Needs the native module, which a finished trace does not.
    from memtrace.finalise import recover

    scratch = None
    results = []
    if os.access(trace_dir, os.W_OK) and os.access(trace_dir / SPOOL, os.W_OK):
        results.append(recover(trace_dir, progress=True))
    if not results or results[-1].unsure:
        scratch = Path(mkdtemp(prefix="memtrace-"))
        try:
            results.append(recover(trace_dir, into=scratch, progress=True))
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
    roots = (trace_dir,) if scratch is None else (trace_dir, scratch)
    last = results[-1]  # has looked at everything that is left
    finished = any((root / "processes").is_dir() for root in roots)
    if last.refused and not last.running and not finished:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
        raise MemtraceError(last.refused[0])
    unsure = dict(last.unsure)
    for result in results:
        for key in result.keys:
            if key not in unsure:
                how = ", which did not end in order" if key in result.cut_off else ""
                _note(f"finished the records of process {_pid(key)}{how}")
    for reason in last.refused:
        _note(f"{reason}: this process is left out")
    if unsure:
        who = f"process {_pid(next(iter(unsure)))}"
        if len(unsure) > 1:
            who = f"{len(unsure):,} processes"
        _note(
            f"{who} of host {', '.join(dict.fromkeys(unsure.values()))} may still run; shown is "
            "what was recorded until now. Once ended, to finish the trace: "
            f"python -m memtrace recover --force {trace_dir}"
        )
    if finished:  # else that is all there is to say, and an error
        for key in last.running:
            _note(f"process {_pid(key)} is still running; its records are not in the tables yet")
    return Spools(roots, last.running, scratch)


def _note(line: str) -> None:
    sys.stderr.write(f"memtrace: {line}\n")


def _pid(key: str) -> str:
    return key.rsplit("-", 2)[-2] if key.count("-") >= 2 else key


def _check(trace: Trace) -> None:
    missing = [name for name, dataset in trace.datasets.items() if not dataset.exists]
    if "processes" in missing:
        if trace.running:
            raise MemtraceError(
                f"{trace.path} holds nothing but the records of processes that are still running: "
                "open it when they have ended"
            )
        raise MemtraceError(f"{trace.path} is not a memtrace trace: it has no dataset 'processes'")
    _check_version(trace)
    if missing:
        raise _incomplete(trace, f"lacks {', '.join(missing)}")
    for dataset in trace.datasets.values():
        dataset.check()
    _check_processes(trace)
    for process in trace.process_list:
        _check_rows(trace, process)


def _incomplete(trace: Trace, what: str) -> MemtraceError:
    return MemtraceError(f"{trace.path} {what}: part of the trace was deleted or not copied")


def _check_processes(trace: Trace) -> None:
    """Every process has a folder in every dataset, and its row in `processes`."""
    keys = {process.key for process in trace.process_list}
    for name, dataset in trace.datasets.items():
        absent = keys - set(dataset.keys)
        if absent:
            raise _incomplete(trace, f"lacks {name}/{_PARTITION}{min(absent)}")
        for key in sorted(set(dataset.keys) - keys):
            if not _is_being_finished(trace, key):
                raise _incomplete(trace, f"lacks the row of processes/{_PARTITION}{key}")


def _is_being_finished(trace: Trace, key: str) -> bool:
    # A finaliser deletes the records of a process when its row is in place. The row is looked for
    # last, and anew: a process that has just been finished is not one that lost its row.
    if key in spool_keys(trace.path):
        return True
    return bool(Dataset(trace.roots, "processes").parts.get(key))


def _check_rows(trace: Trace, process: Process) -> None:
    """Refuses a trace that lacks rows: sums over what is left would be wrong without a word."""
    for name, written in process.dataset_rows.items():
        if name not in trace.datasets:
            continue
        found = trace.datasets[name].num_rows(process.key)
        place = f"{name}/{_PARTITION}{process.key}"
        if found < written:
            raise _incomplete(trace, f"has {found:,} of the {written:,} rows of {place}")
        if found > written:
            raise MemtraceError(
                f"{trace.path} has {found:,} rows in {place}, where {written:,} were written: "
                "files of another trace lie in it"
            )


def _check_version(trace: Trace) -> None:
    processes = trace.datasets["processes"]
    if not any(processes.parts.values()):
        raise MemtraceError(f"{trace.path} is not a memtrace trace: 'processes' has no file")
    processes.check()
    versions = [
        v for v in processes.read(["format_version"]).column(0).to_pylist() if v is not None
    ]
    if versions and max(versions) > FORMAT_VERSION:
        raise MemtraceError(
            f"trace was written in format {max(versions)}; this memtrace {_own_version()} reads "
            f"up to {FORMAT_VERSION}: pip install -U memtrace"
        )


def _own_version() -> str:
    import memtrace

    return memtrace.__version__
