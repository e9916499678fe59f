"""How torch's allocator rounds and splits: csrc/analyse/allocator_settings.cpp in Python.

Only for blocks that the native mirror cannot know, because they were there before the first event.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_SMALLEST_BYTES = 512
_MIB = 1 << 20
_NO_LIMIT = 1 << 62
_SIZE_CLASSES = 16


@dataclass(frozen=True)
class Rounding:
    """The settings that decide a block's size. `divisions` by size class, from 1 MiB up."""

    expandable: bool = False
    max_split_bytes: int = _NO_LIMIT
    divisions: tuple[int, ...] = (0,) * _SIZE_CLASSES

    @classmethod
    def of(cls, settings: dict[str, Any], *, expandable: bool) -> Rounding:
        """From a snapshot's `allocator_settings`; what it lacks has torch's default."""
        limit = settings.get("max_split_size")
        if type(limit) is not int or not 0 <= limit < _NO_LIMIT:
            limit = _NO_LIMIT
        divisions = settings.get("roundup_power2_divisions")
        if not isinstance(divisions, dict):
            divisions = {}
        found = [divisions.get(str(1 << power)) for power in range(_SIZE_CLASSES)]
        return cls(
            expandable,
            limit,
            tuple(n if type(n) is int and 0 < n <= 1 << 20 else 0 for n in found),
        )

    def round(self, size_bytes: int) -> int:
        """The least block for so many bytes."""
        if size_bytes < _SMALLEST_BYTES:
            return _SMALLEST_BYTES
        log2 = size_bytes.bit_length() - 1
        divisions = self.divisions[min(max(log2 - 20, 0), _SIZE_CLASSES - 1)]
        if divisions > 1 and size_bytes > _SMALLEST_BYTES * divisions:
            power = 1 << log2
            if power == size_bytes:
                return size_bytes
            step = power >> (divisions.bit_length() - 1)
            return 2 * power if step == 0 else -(-size_bytes // step) * step
        return -(-size_bytes // _SMALLEST_BYTES) * _SMALLEST_BYTES

    def is_small(self, size_bytes: int) -> bool:
        """Whether so many bytes come from the pool of small blocks."""
        return self.round(size_bytes) <= _MIB

    def splits_exactly(self, rounded_bytes: int) -> bool:
        """Whether a block of this size is never larger: nothing is too little to be split off."""
        return self.expandable or rounded_bytes <= _MIB

    def splits(self, block_bytes: int, rounded_bytes: int) -> bool:
        """Whether a free block of `block_bytes` is split for an allocation."""
        rest = block_bytes - rounded_bytes
        if self.splits_exactly(rounded_bytes):
            return rest >= _SMALLEST_BYTES
        return rounded_bytes < self.max_split_bytes and rest > _MIB
