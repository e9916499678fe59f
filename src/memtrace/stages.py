"""The stages that a program is in: their numbers, and which lies in which.

A stage begun plainly lasts until the next plain one in the same block, or until that block ends. A
block (`with memtrace.stage(...)`) lies within the plain stage that is on around it.
"""

from __future__ import annotations

from _thread import RLock, get_ident


class StageName:
    """One stage: its number in this process, and what the user calls it."""

    __slots__ = ("number", "text")

    def __init__(self, number: int, text: str) -> None:
        self.number = number
        self.text = text


class _Block:
    __slots__ = ("plain", "stage")

    def __init__(self, stage: StageName | None) -> None:
        self.stage = stage
        self.plain: StageName | None = None  # the plain stage that is on directly in this block


class Stages:
    """What is open now: blocks per thread, over one ground that all threads share."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._numbers = 0
        self._ground = _Block(None)
        self._blocks: dict[int, list[_Block]] = {}

    def begin_plain(self, text: str) -> tuple[StageName, StageName | None, list[StageName]]:
        """The new stage, the one that it lies in, and those that it ends."""
        with self._lock:
            block = self._innermost()
            ended = [block.plain] if block.plain else []
            block.plain = self._new(text)
            return block.plain, block.stage, ended

    def enter_block(self, text: str) -> tuple[StageName, StageName | None]:
        """The new stage, and the one that it lies in."""
        with self._lock:
            around = self._innermost()
            stage = self._new(text)
            self._blocks.setdefault(get_ident(), []).append(_Block(stage))
            return stage, around.plain or around.stage

    def leave_block(self, stage: StageName) -> list[StageName]:
        """What ends with it, innermost first: also what a generator left open inside."""
        with self._lock:
            blocks = self._blocks.get(get_ident(), [])
            place = next((i for i, block in enumerate(blocks) if block.stage is stage), None)
            if place is None:
                return []  # left in another thread, or twice
            ended = [
                open_stage
                for block in reversed(blocks[place:])
                for open_stage in (block.plain, block.stage)
                if open_stage is not None
            ]
            del blocks[place:]
            if not blocks:
                del self._blocks[get_ident()]
            return ended

    def _new(self, text: str) -> StageName:
        self._numbers += 1
        return StageName(self._numbers, text)

    def _innermost(self) -> _Block:
        blocks = self._blocks.get(get_ident())
        return blocks[-1] if blocks else self._ground
