"""Values of which a few are not what a reader expects."""

from __future__ import annotations

import copy
import random
from typing import Any

_STRANGE: tuple[Any, ...] = (
    None, True, -1, 0, 1, 511, 1 << 31, 1 << 48, 1 << 62, (1 << 63) - 1, 1 << 64, -(1 << 63), 1.5,
    1e300, float("nan"), float("inf"), "", "alloc", "x" * 300, "\udc80", [], {}, [[]], {"a": 1},
    "segment_free", "segment_unmap", "segment_map", "free_completed", "oom", 0x7F00_0000_0000,
    "[memory]", "nn.Module: ", "torch/x.py(99999999999): y", "(1): ", "ProfilerStep#1",
)  # fmt: skip
ONLY_PICKLED: tuple[Any, ...] = (b"x", (), (1, 2, 3))


def strange(value: Any, rng: random.Random, more: tuple[Any, ...] = ()) -> Any:
    """A copy in which a few values are others, gone, doubled or out of order."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 2, 4, 10))):
        holders: list[Any] = []
        _collect(value, holders)
        if not holders:
            break
        holder = rng.choice(holders)
        key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        change = rng.randrange(4)
        if change == 0:
            del holder[key]
        elif change == 1 and isinstance(holder, list):
            holder.insert(rng.randrange(len(holder) + 1), holder[key])
        elif change == 2 and isinstance(holder, list):
            rng.shuffle(holder)
        elif change == 2 and isinstance(holder[key], int):
            holder[key] = holder[key] + rng.choice((-512, -1, 1, 512, 1 << 20, -(1 << 40)))
        else:
            # The lists in it are for all.
            holder[key] = copy.deepcopy(rng.choice(_STRANGE + more))
    return value


def _collect(value: Any, holders: list[Any]) -> None:
    if isinstance(value, (dict, list)) and value:
        holders.append(value)
        for item in value.values() if isinstance(value, dict) else value:
            _collect(item, holders)
