"""The KV cache: what a token of one sequence costs, and so how long a context there is room for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from memtrace.analyse.counters import equals, integers
from memtrace.replay.outcome import Outcome
from memtrace.replay.requests import Requests

_KIND = "kv_cache"


@dataclass(frozen=True)
class KvCache:
    """Of one model, as its cache was when it was largest.

    Attributes:
        tensors: keys and values, of all layers.
        token_bytes: of one token of one sequence, in all tensors.
        shapes: heads and width of a head, of each kind of tensor, with how many there are of it and
            the bytes of an element: what the sum is made of.
        sequences, tokens: when it was largest.
        elsewhere_bytes: all else that was allocated at the peak while it lived.
    """

    tensors: int
    token_bytes: int
    shapes: tuple[tuple[int, tuple[int, ...], float], ...]
    sequences: int
    tokens: int
    elsewhere_bytes: int

    def longest(self, capacity_bytes: int) -> int:
        """The longest context with as many sequences and all else as it was; 0: none at all."""
        room = capacity_bytes - self.elsewhere_bytes
        return max(room, 0) // (self.token_bytes * self.sequences) if self.token_bytes else 0


def find_kv_cache(outcome: Outcome) -> KvCache | None:
    """None where there is none, or nothing is known of its shapes."""
    requests = outcome.requests
    rows = np.flatnonzero(equals(requests.rows, "category", _KIND))
    shapes = _shapes(requests)
    ids = integers(requests.rows, "allocation_id")
    known = [int(row) for row in rows if int(ids[row]) in shapes]
    if not known:
        return None
    largest: dict[str, int] = {}  # of each tensor of the cache: its largest allocation
    for row in known:
        name = shapes[int(ids[row])][0]
        if name not in largest or requests.size_bytes[largest[name]] <= requests.size_bytes[row]:
            largest[name] = row
    length_at = _length_dimension([shape for _, shape in shapes.values()])
    token_bytes = 0.0
    kinds: dict[tuple[tuple[int, ...], float], int] = {}
    sequences = tokens = 0
    for row in largest.values():
        shape, size = shapes[int(ids[row])][1], int(requests.size_bytes[row])
        elements = int(np.prod(shape))
        batch, length = shape[0], shape[length_at]
        if not elements:
            continue
        token_bytes += size / (batch * length)
        rest = tuple(n for place, n in enumerate(shape) if place not in (0, length_at % len(shape)))
        kinds[rest, size / elements] = kinds.get((rest, size / elements), 0) + 1
        sequences, tokens = max(sequences, batch), max(tokens, length)
    if not token_bytes:
        return None
    held = np.array(list(largest.values()))
    whole = outcome.peak(start=requests.start[held].min(), end=requests.free[held].min())
    live = requests.live_at(whole.place)[rows]
    cache_bytes = int(outcome.block_bytes[rows[live]].sum())
    return KvCache(
        tensors=len(largest),
        token_bytes=round(token_bytes),
        shapes=tuple((n, rest, width) for (rest, width), n in kinds.items()),
        sequences=sequences,
        tokens=tokens,
        elsewhere_bytes=whole.total_bytes - cache_bytes,
    )


def _shapes(requests: Requests) -> dict[int, tuple[str, tuple[int, ...]]]:
    """By allocation: what a tensor of the cache is called, and its shape."""
    found: dict[int, tuple[str, tuple[int, ...]]] = {}
    for group in requests.trace.datasets["names"].row_groups(requests.process.key):
        table = group.read(["allocation_id", "name", "kind", "shape"])
        table = table.filter(pa.array(equals(table, "kind", _KIND)))
        for row in table.to_pylist():
            shape = tuple(row["shape"] or ())
            if len(shape) >= 3:  # sequences, tokens and at least one more
                found[row["allocation_id"]] = (row["name"] or "", shape)
    return found


def _length_dimension(shapes: list[tuple[int, ...]]) -> int:
    """Which dimension grows with the sequence; the last but one, if none is seen to."""
    ranks = {len(shape) for shape in shapes}
    if len(ranks) == 1:
        grows = [
            place for place in range(1, ranks.pop()) if len({shape[place] for shape in shapes}) > 1
        ]
        if len(grows) == 1:
            return grows[0]
    return -2
