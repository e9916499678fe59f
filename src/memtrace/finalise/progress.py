"""A progress bar on stderr, when there is someone to see it and something to wait for."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_PATIENCE_S = 1.0


class ProgressBar:
    """Shows itself after a second; never when stderr is not a terminal."""

    def __init__(self, total_records: int, *, shown: bool) -> None:
        self._total = total_records
        self._shown = shown and sys.stderr.isatty()
        self._start_s = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def update(self, records: int) -> None:
        if not self._shown:
            return
        if self._bar is None:
            if time.monotonic() - self._start_s < _PATIENCE_S:
                return
            self._bar = self._start()
        if self._task is not None:
            self._bar.update(self._task, completed=records)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _start(self) -> Progress:
        # Imported only now: most traces are done before anybody would look.
        from rich.console import Console
        from rich.progress import Progress

        bar = Progress(console=Console(stderr=True), transient=True)
        self._task = bar.add_task("memtrace: writing the trace", total=self._total)
        bar.start()
        return bar
