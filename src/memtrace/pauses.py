"""Whether a recording is paused: by a plain `pause()`, or by blocks that are open.

A pause is one of the whole process. Plain calls do not nest; blocks do, and each of them, on any
thread, holds the recording paused until it is left.
"""

from __future__ import annotations

from _thread import get_ident


class Pauses:
    """Who wants a recording paused. Call it with `recording.lock` held."""

    def __init__(self, *, paused: bool = False) -> None:
        self.plain = paused
        self._blocks: list[int] = []  # of each open one: the thread that entered it

    @property
    def wanted(self) -> bool:
        """Whether anyone does."""
        return self.plain or bool(self._blocks)

    def enter(self) -> int:
        """A block begins on this thread. Returns what to leave it with."""
        self._blocks.append(get_ident())
        return self._blocks[-1]

    def leave(self, block: int) -> None:
        """It is left, maybe on another thread."""
        if block in self._blocks:
            self._blocks.remove(block)

    def of_fork(self) -> Pauses:
        """Likewise, in a forked child: blocks of other threads are left by nobody there."""
        self._blocks = [thread for thread in self._blocks if thread == get_ident()]
        return self
