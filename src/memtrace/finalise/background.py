"""Parquet is written by a second thread while the native code prepares the next batch."""

from __future__ import annotations

import queue
import threading
from types import TracebackType

import pyarrow as pa

from memtrace.dataset_writer import DatasetWriter

# Batches that may wait: enough to keep both threads busy, few enough to bound memory.
_MOST_WAITING = 3

_Job = tuple[DatasetWriter, pa.Table, bool]


class BackgroundWriter:
    """Writes tables in the order they come; an error shows at the next call or at the end."""

    def __init__(self) -> None:
        self._jobs: queue.Queue[_Job | None] = queue.Queue(_MOST_WAITING)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="memtrace-write", daemon=True)

    def write(self, writer: DatasetWriter, table: pa.Table, ends_part: bool) -> None:
        self._raise()
        self._jobs.put((writer, table, ends_part))

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self._error is not None:
                continue  # keeps taking, so that nobody waits for room
            writer, table, ends_part = job
            try:
                writer.write(table, ends_part=ends_part)
            except BaseException as error:  # handed to the caller's thread
                self._error = error

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def __enter__(self) -> BackgroundWriter:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._jobs.put(None)
        self._thread.join()
        if error is None:
            self._raise()
