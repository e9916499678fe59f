"""A bar on stderr while something long is done, when there is someone to see it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

#: What is done sooner has no bar.
PATIENCE_S = 0.5

Advance = Callable[[float], None]


@contextmanager
def progress(what: str, *, total: float | None = None, shown: bool = True) -> Iterator[Advance]:
    """Shows that `what` is being done, from half a second on; never where stderr is no terminal.

    with progress("writing the page", total=rows) as advance:
        ...
        advance(1000)

    Args:
        total: what the steps given to `advance` sum to; None: not known, the bar only moves.
        shown: False: never.
    """
    if not shown or not sys.stderr.isatty():
        yield _nothing
        return
    bar = _Bar(what, total)
    try:
        yield bar.advance
    finally:
        bar.close()


def _nothing(steps: float) -> None:
    """Nobody looks."""


class _Bar:
    """Appears by itself: what is waited for may be one call that never advances it."""

    def __init__(self, what: str, total: float | None) -> None:
        self._what, self._total = what, total
        self._done = 0.0
        self._bar: Progress | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._timer = threading.Timer(PATIENCE_S, self._appear)
        self._timer.daemon = True
        self._timer.start()

    def advance(self, steps: float) -> None:
        self._done += steps
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done)

    def close(self) -> None:
        self._timer.cancel()
        with self._lock:
            self._closed = True
            if self._bar is not None:
                self._bar.stop()
                self._bar = None

    def _appear(self) -> None:
        # Imported only now: most work is done before anybody would look.
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
        from rich.progress import TimeRemainingColumn as Remaining

        columns = [TextColumn("{task.description}"), BarColumn()]
        known = [TaskProgressColumn(), Remaining()] if self._total else []
        with self._lock:
            if self._closed:
                return
            bar = Progress(*columns, *known, console=Console(stderr=True), transient=True)
            task = bar.add_task(f"memtrace: {self._what}", total=self._total)
            bar.update(task, completed=self._done)
            bar.start()
            self._bar = bar
