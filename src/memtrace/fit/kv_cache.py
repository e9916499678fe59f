"""The KV cache: what a token of one sequence costs, and so how long a context there is room for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from memtrace.analyse.counters import equals, integers
from memtrace.replay.outcome import Outcome
from memtrace.replay.requests import Requests

_CATEGORY = "kv_cache"
_BATCH, _SEQUENCE = "batch", "sequence"
#: Names that have found it to be of a cache, or that the program has given it.
_KINDS = (_CATEGORY, "label")


@dataclass(frozen=True)
class KvCache:
    """Of one model, as its cache was when it was largest.

    Attributes:
        tensors: keys and values, of all layers.
        token_bytes: of one token of one sequence, in all tensors.
        shapes: heads and width of a head, of each kind of tensor, with how many there are of it and
            the bytes of an element: what the sum is made of.
        sequences, tokens: when it was largest.
        held_bytes: of the cache at the peak while it lived; more than its tokens take where a
            program keeps the old cache while it makes the new one.
        elsewhere_bytes: all else that was allocated then.
    """

    tensors: int
    token_bytes: int
    shapes: tuple[tuple[int, tuple[int, ...], float], ...]
    sequences: int
    tokens: int
    held_bytes: int
    elsewhere_bytes: int

    @property
    def times_held(self) -> float:
        """How often the peak holds what its tokens take."""
        return max(self.held_bytes / (self.token_bytes * self.sequences * self.tokens), 1.0)

    def longest(self, capacity_bytes: int) -> int:
        """The longest context with as many sequences and all else as it was; 0: none at all."""
        room = max(capacity_bytes - self.elsewhere_bytes, 0)
        return int(room / (self.times_held * self.token_bytes * self.sequences))


def find_kv_cache(outcome: Outcome, recorded: Requests) -> KvCache | None:
    """None where there is none, or nothing is known of its shapes.

    Args:
        recorded: the requests before any what-if: their sizes are those of the recorded shapes.
    """
    requests = outcome.requests
    rows = np.flatnonzero(equals(requests.rows, "category", _CATEGORY))
    shapes = _shapes(requests)
    ids = integers(requests.rows, "allocation_id")
    known = [int(row) for row in rows if int(ids[row]) in shapes]
    if not known:
        return None
    modules = requests.rows["module"].to_pylist()
    largest: dict[tuple[str, str | None], int] = {}  # of each of its tensors: the largest
    for row in known:
        name = (shapes[int(ids[row])][0], modules[row])
        if name not in largest or requests.size_bytes[largest[name]] <= requests.size_bytes[row]:
            largest[name] = row
    sizes = zip(integers(recorded.rows, "allocation_id"), recorded.size_bytes, strict=True)
    recorded_bytes = {int(each): int(size) for each, size in sizes if int(each) in shapes}
    length_at = _length_dimension([shape for _, shape in shapes.values()])
    token_bytes = 0.0
    kinds: dict[tuple[tuple[int, ...], float], int] = {}
    sequences = tokens = 0
    for row in largest.values():
        shape, size = shapes[int(ids[row])][1], int(requests.size_bytes[row])
        if not all(shape):
            continue
        rest = tuple(n for place, n in enumerate(shape) if place not in (0, length_at % len(shape)))
        batch = requests.dimensions.get(_BATCH, shape[0])
        length = shape[length_at]
        if _SEQUENCE in requests.dimensions:  # as much longer as it is larger
            length = round(length * size / recorded_bytes[int(ids[row])] * shape[0] / batch)
        width = size / (batch * length * int(np.prod(rest)))
        token_bytes += size / (batch * length)
        kinds[rest, width] = kinds.get((rest, width), 0) + 1
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
        held_bytes=cache_bytes,
        elsewhere_bytes=whole.total_bytes - cache_bytes,
    )


def _shapes(requests: Requests) -> dict[int, tuple[str, tuple[int, ...]]]:
    """By allocation: what a tensor of the cache is called, and its shape."""
    found: dict[int, tuple[str, tuple[int, ...]]] = {}
    for group in requests.trace.datasets["names"].row_groups(requests.process.key):
        table = group.read(["allocation_id", "name", "kind", "shape"])
        of_cache = equals(table, "kind", _KINDS[0]) | equals(table, "kind", _KINDS[1])
        table = table.filter(pa.array(of_cache))
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
