"""Whether a recording is paused: by a plain `pause()`, or by blocks that are open.

A pause is one of the whole process. Plain calls do not nest; blocks do, and each of them, on any
thread, holds the recording paused until it is left.
"""

from __future__ import annotations

from _thread import get_ident


class PauseBlock:
    """One that is open or will be, and the thread that enters it."""

    __slots__ = ("thread",)

    def __init__(self) -> None:
        self.thread = get_ident()


class Pauses:
    """Who wants a recording paused. Call it with `recording.lock()` held."""

    def __init__(self, *, paused: bool = False) -> None:
        self.plain = paused
        self._blocks: list[PauseBlock] = []  # those that are open

    @property
    def wanted(self) -> bool:
        """Whether anyone does."""
        return self.plain or bool(self._blocks)

    def enter(self, block: PauseBlock) -> None:
        """It begins."""
        self._blocks.append(block)

    def leave(self, block: PauseBlock) -> None:
        """It is left, maybe on another thread; nothing, where it is not open."""
        if block in self._blocks:
            self._blocks.remove(block)

    def of_fork(self) -> Pauses:
        """Likewise, in a forked child: blocks of other threads are left by nobody there."""
        self._blocks = [block for block in self._blocks if block.thread == get_ident()]
        return self
