"""The blocks (`with memtrace.stage(...)`) that a program is in, and the numbers of its stages.

Which block is the innermost follows the task, as tasks of one thread take turns: blocks of one do
not lie in those of another. Which stage a plain one ends, and which stages lie in which, is found
out from the order of the notes when the trace is made (csrc/analyse/stages.h).
"""

from __future__ import annotations

from _contextvars import ContextVar
from itertools import count


class Plain:
    """A plain stage: its number and name, and the one before it in its place."""

    __slots__ = ("before", "name", "number")

    def __init__(self, number: int, name: str, before: Plain | None) -> None:
        self.number = number
        self.name = name
        self.before = before


class Block:
    """A block that was entered: its stage's number and name, its thread, the block around it."""

    __slots__ = ("around", "is_open", "name", "number", "plain", "stages", "thread")

    def __init__(
        self, stages: Stages, number: int, name: str, *, thread: int, around: Block | None
    ) -> None:
        self.stages = stages
        self.number = number
        self.name = name
        self.thread = thread
        self.around = around
        self.plain: Plain | None = None  # the last one that was begun in it
        self.is_open = True


# The block that was entered last in this task, thread or generator; maybe it was left since, or is
# of an earlier recording.
_entered: ContextVar[Block | None] = ContextVar("memtrace.stages", default=None)


class Stages:
    """Those of one recording. Threads share it without a lock: each has blocks of its own."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self.plain: Plain | None = None  # the last one that was begun outside any block

    def innermost(self) -> Block | None:
        """The block that this task is in."""
        return self._open(_entered.get())

    def begin_plain(self, name: str) -> tuple[Plain, Block | None]:
        """The new stage, and the block that it is in."""
        around = self.innermost()
        place = around or self
        before = place.plain
        if before is not None:
            before.before = None  # one step back is enough, and all else can go
        place.plain = Plain(next(self._numbers), name, before)
        return place.plain, around

    def enter(self, name: str, plain: Plain | None, *, thread: int) -> Block:
        """The new block, of the number of the plain stage that it seemed to be so far."""
        around = self.innermost()
        place = around or self
        if plain is not None and place.plain is plain:
            place.plain = plain.before
        number = next(self._numbers) if plain is None else plain.number
        block = Block(self, number, name, thread=thread, around=around)
        _entered.set(block)
        return block

    def of_fork(self, thread: int) -> list[Block]:
        """In a forked child, whose only thread this is: the blocks it is in, outermost first."""
        blocks = []
        block = self.innermost()
        while block is not None:
            block.thread = thread
            blocks.append(block)
            block = self._open(block.around)
        return blocks[::-1]

    def open_inside(self, block: Block) -> list[Block]:
        """What ends with it, innermost first: also what a generator left open inside."""
        ended = []
        inner = _entered.get()
        while inner is not None and inner is not block:
            ended.append(inner)
            inner = inner.around
        # Left in another task or thread than it was entered in: what is open there is not inside.
        ended = [*ended, block] if inner is block else [block]
        return [each for each in ended if each.is_open and each.stages is self]

    def left(self, block: Block) -> None:
        """It is not open any more: blocks left long ago can go."""
        block.around = self._open(block.around)
        _entered.set(self.innermost())

    def _open(self, block: Block | None) -> Block | None:
        # The first that is open, from this one outwards.
        while block is not None and not (block.is_open and block.stages is self):
            block = block.around
        return block


def of_this_task(blocks: list[Block]) -> Block:
    """The one of these blocks that this task entered last; else the last of them."""
    inner = _entered.get()
    while inner is not None and inner not in blocks:
        inner = inner.around
    return blocks[-1] if inner is None else inner
