"""A plain model of one CUDA device's allocator that makes valid random event streams, and knows the
block size of every allocation: what the native mirror is held against.

It keeps blocks in sorted lists and decides every split and merge by the written rules; it shares no
code with csrc/analyse.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from dataclasses import dataclass
from random import Random

MIB = 1 << 20
SMALL_PAGE = 2 * MIB
LARGE_PAGE = 20 * MIB

FREE, ALLOCATED, PENDING = "free", "allocated", "pending"


@dataclass
class Block:
    size: int
    state: str
    owner: tuple[object, ...]  # blocks of one owner may merge
    requested: int = 0


@dataclass
class Made:
    """One event as the tracker would report it, and the totals after it."""

    action: str
    address: int
    size: int
    stream: int
    block_bytes: int | None
    allocated: int
    active: int
    reserved: int


class Device:
    """Blocks, and random steps that a real allocator could have taken."""

    def __init__(self, random: Random, *, expandable: bool, divisions: int, max_split: int) -> None:
        self.random = random
        self.expandable = expandable
        self.divisions = divisions
        self.max_split = max_split
        self.starts: list[int] = []
        self.blocks: dict[int, Block] = {}
        self.made: list[Made] = []
        self.allocated = self.active = self.reserved = 0
        self._next_segment = 1 << 40
        self._reservations: dict[tuple[int, bool], tuple[int, int]] = {}  # base, next unmapped

    def settings(self) -> dict[str, object]:
        return {
            "expandable_segments": self.expandable,
            "max_split_size": self.max_split,
            "roundup_power2_divisions": [self.divisions] * 16,
        }

    # ---- the rules

    def round(self, size: int) -> int:
        if size < 512:
            return 512
        if self.divisions > 1 and size > 512 * self.divisions:
            power = 1 << (size.bit_length() - 1)
            if power == size:
                return size
            step = power >> (self.divisions.bit_length() - 1)
            return -(-size // step) * step
        return -(-size // 512) * 512

    def splits(self, block: int, rounded: int) -> bool:
        rest = block - rounded
        if rounded <= MIB or self.expandable:
            return rest >= 512
        return (self.max_split < 0 or rounded < self.max_split) and rest > MIB

    # ---- blocks

    def _put(self, address: int, block: Block) -> None:
        insort(self.starts, address)
        self.blocks[address] = block

    def _drop(self, address: int) -> Block:
        self.starts.remove(address)
        return self.blocks.pop(address)

    def _join(self, first: int, second: int) -> bool:
        a, b = self.blocks.get(first), self.blocks.get(second)
        if a is None or b is None or a.state != FREE or b.state != FREE:
            return False
        if a.owner != b.owner or first + a.size != second:
            return False
        a.size += self._drop(second).size
        return True

    def _merge(self, address: int) -> None:
        at = self.starts.index(address)
        if at + 1 < len(self.starts):
            self._join(address, self.starts[at + 1])
        if at > 0:
            self._join(self.starts[at - 1], address)

    def _make(self, action: str, address: int, size: int, stream: int, block: int | None) -> None:
        self.made.append(
            Made(action, address, size, stream, block, self.allocated, self.active, self.reserved)
        )

    # ---- random steps

    def step(self) -> None:
        held = [a for a, b in self.blocks.items() if b.state != FREE]
        roll = self.random.random()
        if roll < 0.45 or not held:
            self._alloc()
        elif roll < 0.95:
            self._free(self.random.choice(held))
        else:
            self._give_back()

    def _alloc(self) -> None:
        limit = self.random.choice([600, 100_000, 2 * MIB, 30 * MIB])
        size = self.random.randint(1, limit)
        rounded = self.round(size)
        small = rounded <= MIB
        fitting = [
            a
            for a, b in self.blocks.items()
            if b.state == FREE and b.size >= rounded and b.owner[-1] == small
        ]
        if fitting and self.random.random() < 0.9:
            address = self.random.choice(fitting)
        else:
            address = self._grow(rounded, small)
        block = self.blocks[address]
        if self.splits(block.size, rounded):
            self._put(address + rounded, Block(block.size - rounded, FREE, block.owner))
            block.size = rounded
        block.state, block.requested = ALLOCATED, size
        self.allocated += block.size
        self.active += block.size
        self._make("alloc", address, size, self._stream(block), block.size)

    def _grow(self, rounded: int, small: bool) -> int:
        stream = self.random.choice([0, 7])
        if not self.expandable:
            if rounded <= MIB:
                size = SMALL_PAGE
            elif rounded < 10 * MIB:
                size = LARGE_PAGE
            else:
                size = -(-rounded // SMALL_PAGE) * SMALL_PAGE
            address = self._next_segment
            # Often back to back with the one before.
            self._next_segment += size + self.random.choice([0, 0, 64 * MIB])
            self._add("segment_alloc", address, size, stream, ("segment", address, small))
            return address
        page = SMALL_PAGE if small else LARGE_PAGE
        size = -(-rounded // page) * page
        base, address = self._reservations.get((stream, small), (0, 0))
        if address == 0:
            base = address = self._next_segment
            self._next_segment += 1 << 36
        self._reservations[stream, small] = (base, address + size)
        self._add("segment_map", address, size, stream, ("reservation", base, stream, small))
        # It has merged with what is free before it.
        return self.starts[bisect_right(self.starts, address) - 1]

    def _add(
        self, action: str, address: int, size: int, stream: int, owner: tuple[object, ...]
    ) -> None:
        self._streams()[owner] = stream
        self._put(address, Block(size, FREE, owner))
        self.reserved += size
        self._make(action, address, size, stream, None)
        self._merge(address)

    def _free(self, address: int) -> None:
        block = self.blocks[address]
        if block.state == ALLOCATED:
            block.state = PENDING
            self.allocated -= block.size
            self._make("free_requested", address, block.requested, self._stream(block), block.size)
            if self.random.random() < 0.3:
                return  # another stream still uses it
        block.state = FREE
        self.active -= block.size
        requested, block.requested = block.requested, 0
        self._make("free_completed", address, requested, self._stream(block), block.size)
        self._merge(address)

    def _give_back(self) -> None:
        for address in list(self.starts):
            block = self.blocks.get(address)
            if block is None or block.state != FREE:
                continue
            kind, base = block.owner[0], block.owner[1]
            if kind == "segment":
                alone = sum(b.owner == block.owner for b in self.blocks.values()) == 1
                if alone:
                    self._drop(address)
                    self.reserved -= block.size
                    self._make("segment_free", address, block.size, self._stream(block), None)
                continue
            page = SMALL_PAGE if block.owner[-1] else LARGE_PAGE
            assert isinstance(base, int)
            low = base + -(-(address - base) // page) * page
            high = base + (address + block.size - base) // page * page
            if low < high:
                self._unmap(address, low, high)

    def _unmap(self, address: int, low: int, high: int) -> None:
        block = self._drop(address)
        end = address + block.size
        if address < low:
            self._put(address, Block(low - address, FREE, block.owner))
        if high < end:
            self._put(high, Block(end - high, FREE, block.owner))
        self.reserved -= high - low
        self._make("segment_unmap", low, high - low, self._stream(block), None)
        if not any(b.owner == block.owner for b in self.blocks.values()):
            stream, small = block.owner[2], block.owner[3]
            assert isinstance(stream, int)
            assert isinstance(small, bool)
            del self._reservations[stream, small]

    def _streams(self) -> dict[tuple[object, ...], int]:
        return self.__dict__.setdefault("streams", {})

    def _stream(self, block: Block) -> int:
        return self._streams()[block.owner]
