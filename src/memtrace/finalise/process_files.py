"""The files of one process's datasets, all but `processes`, filled batch by batch."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from memtrace import _core
from memtrace.dataset_writer import DatasetWriter
from memtrace.finalise.parquet import encoded, to_table
from memtrace.finalise.samples import OutsideSamples
from memtrace.finalise.spools import Spool
from memtrace.finalise.thinning import THINNED, Thinner
from memtrace.run.output import UNFINISHED
from memtrace.schema import SCHEMAS

BATCH_ROWS = 131_072
PART_ROWS = 131_072  # of `allocations`: sorted in memory, at some 500 bytes a row
# Of all others: so that a part is done with while the program runs.
_OTHER_PART_ROWS = 1 << 20


def work_folder(target: Path, key: str) -> Path:
    """Where the files of a process are made that are to be put into `target`."""
    # Hidden, so that no reader takes it for a dataset; named by process, so that two finalisers of
    # two processes never meet.
    return target / f"{UNFINISHED}{key}"


def make_anew(work: Path) -> None:
    """The folder, empty.

    Raises:
        OSError: it cannot be made.
    """
    work.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(mode=0o700)


class ProcessFiles:
    """Of the process that writes the spool in `spool_dir`; closed or abandoned like a file."""

    def __init__(
        self, work: Path, spool_dir: Path, *, origin_ns: int, thinned: bool = False
    ) -> None:
        self._stack = ExitStack()
        self._outside = OutsideSamples(spool_dir, origin_ns=origin_ns)
        names = [name for name in SCHEMAS if name != "processes"]
        self._writers = {
            name: self._stack.enter_context(
                DatasetWriter(
                    work / name,
                    name,
                    most_part_rows=0 if name == "allocations" else _OTHER_PART_ROWS,
                )
            )
            for name in names
        }
        self.thinner = Thinner(self._closed_parts) if thinned else None

    def write(self, batch: _core.Batch) -> None:
        self._outside.look(batch)
        writer = self._writers[batch.dataset]
        table = to_table(batch.dataset, list(batch.columns))
        if self.thinner is not None and batch.dataset == "events":
            self.thinner.peaks.look(table)
        writer.write(table, ends_part=batch.ends_part)

    def end_parts(self) -> None:
        """What was written can be read, and written anew."""
        for name, writer in self._writers.items():
            if name != "allocations":
                writer.end_part()

    def finish(self, spool: Spool) -> dict[str, int]:
        """Adds what was sampled from outside; the numbers of rows. Then to be closed."""
        for name, table in self._outside.tables(spool):
            self._writers[name].write(encoded(table))
        return {name: writer.rows for name, writer in self._writers.items()}

    def thinned_parts(self) -> list[Path]:
        """The files whose rows may go."""
        return [path for name in THINNED for path in self._closed_parts(name)]

    def _closed_parts(self, dataset: str) -> list[Path]:
        return self._writers[dataset].closed_parts()

    def __enter__(self) -> ProcessFiles:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, traceback)
