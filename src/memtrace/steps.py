"""The step that a program marks and that a task of it is in (`with memtrace.step(...)`).

It follows the task: asyncio's tasks and the threads that work for one (asyncio.to_thread, the
thread pools of web frameworks) take its context along. Where memory is allocated the hook reads
there which step it is (csrc/hook/marked_step.h).
"""

from __future__ import annotations

from _contextvars import ContextVar
from itertools import count

# The recording that a step is of, << 32 | its number; 0: in none. Read by the hook.
current_step: ContextVar[int] = ContextVar("memtrace.step", default=0)
# Recordings are told apart by a number: a task may still be in a step of an earlier one.
_recordings = count(1)


class Steps:
    """The marked steps of one recording."""

    def __init__(self) -> None:
        self.recording = next(_recordings)
        self.any = False  # was one marked
        self.are_told = True  # until the hook cannot

    def innermost(self) -> int:
        """The number of the step that this task is in; 0: in none of this recording."""
        return self._number(current_step.get())

    def enter(self, number: int) -> None:
        """This task is in it from now on."""
        current_step.set(self.recording << 32 | number)
        self.any = True

    def leave(self, number: int, before: int) -> None:
        """This task is where it was before; nothing in another task than the one that entered."""
        if self._number(current_step.get()) == number:
            current_step.set(before)

    def _number(self, value: int) -> int:
        return value & 0xFFFFFFFF if value >> 32 == self.recording else 0
