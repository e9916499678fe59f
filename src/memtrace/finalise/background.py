"""Threads of the finaliser: rows are written by a second one, while native code makes the next."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from memtrace import _core

# Batches that may wait: enough to keep both threads busy, few enough to bound memory.
_MOST_WAITING = 3
_LOWEST_PRIORITY = 19


def take_lowest_priority() -> None:
    """Of this thread: on a busy machine it gets next to no time."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)


def begun_thread(
    name: str, run: Callable[..., None], *arguments: object
) -> threading.Thread | None:
    """A thread at work, or None: there may be no more of them, and its work is left to the end."""
    thread = threading.Thread(target=run, args=arguments, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return None
    return thread


class BackgroundWriter:
    """Hands batches to `write` in the order they come; an error shows at the next or at the end."""

    def __init__(self, write: Callable[[_core.Batch], None]) -> None:
        self._write = write
        self._batches: queue.Queue[_core.Batch | None] = queue.Queue(_MOST_WAITING)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="memtrace-write", daemon=True)

    def write(self, batch: _core.Batch) -> None:
        self._raise()
        self._batches.put(batch)

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None:
            if self._error is not None:
                continue  # keeps taking, so that nobody waits for room
            try:
                self._write(batch)
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
        self._batches.put(None)
        self._thread.join()
        if error is None:
            self._raise()
