"""What a long command is doing, on a terminal's standard error."""

from __future__ import annotations

import time
from types import TracebackType
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_PATIENCE_S = 0.7


class Waiting:
    """Called with words for what is done next, it shows them once a while has passed.

    with Waiting(sys.stderr) as waiting:
        waiting("reading the events")
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._begun_s = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Waiting:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, what: str) -> None:
        if not self._stream.isatty() or time.monotonic() - self._begun_s < _PATIENCE_S:
            return
        if self._bar is None:
            self._bar = self._start()
            self._task = self._bar.add_task(f"memtrace: {what}", total=None)
        elif self._task is not None:
            self._bar.update(self._task, description=f"memtrace: {what}")

    def _start(self) -> Progress:
        # Imported only now: most commands are done before anybody would look.
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TimeElapsedColumn(),
            console=Console(file=self._stream),
            transient=True,
        )
        bar.start()
        return bar
