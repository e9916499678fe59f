"""The largest batch for each of several capacities: predictions are shared between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from memtrace.fit.served import serve
from memtrace.replay.requests import Requests
from memtrace.whatif.scaling import LARGEST, Scaling

_BATCH = "batch"
_GROWTH = 4


def largest_batches(
    scaling: Scaling, requests: Requests, capacities: Sequence[int], *, on_gpu: bool
) -> list[int]:
    """Of each capacity, in bytes: 0: not even 1 fits; scaling.LARGEST: nothing grows.

    Args:
        scaling: of the recorded requests.
        requests: those, or what what-ifs have made of them.

    Raises:
        MemtraceError: the trace doesn't tell how memory follows the batch.
    """
    needs: dict[int, int] = {}

    def need(batch: int) -> int:
        if batch not in needs:
            changed = scaling.at(requests, {_BATCH: batch}).requests
            needs[batch] = serve(changed, on_gpu=on_gpu).high_bytes
        return needs[batch]

    need(scaling.recorded_values(_BATCH)[-1])
    return [_largest(need, needs, capacity) for capacity in capacities]


def _largest(need: Callable[[int], int], needs: dict[int, int], capacity: int) -> int:
    """More needs no less, and nearly in proportion: so each guess is made along a line."""
    while need(max(needs)) <= capacity:
        if max(needs) == LARGEST:
            return LARGEST
        need(min(_GROWTH * max(needs), LARGEST))
    fails = min(batch for batch, size in needs.items() if size > capacity)
    holds = max((batch for batch, size in needs.items() if size <= capacity), default=0)
    by_line = holds > 0
    while fails - holds > 1:
        guess = (holds + fails) // 2
        if by_line and needs[fails] > needs[holds]:
            share = (capacity - needs[holds]) / (needs[fails] - needs[holds])
            guess = min(max(holds + int(share * (fails - holds)), holds + 1), fails - 1)
        if need(guess) <= capacity:
            holds = guess
        else:
            fails = guess
        by_line = holds > 0 and not by_line  # every other time by halves: a line may be far off
    return holds
