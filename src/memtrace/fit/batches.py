"""The largest batch for each of several capacities: predictions are shared between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from memtrace.fit.served import serve
from memtrace.replay.requests import Requests
from memtrace.whatif.scaling import LARGEST, Scaling

_BATCH = "batch"
_GROWTH = 4
#: A batch as large as this is told to one part in so many: allocators go by steps.
_PARTS = 1000


def largest_batches(
    scaling: Scaling, requests: Requests, capacities: Sequence[int], *, on_gpu: bool
) -> list[int]:
    """Of each capacity, in bytes: one that fits, and at most a thousandth more does.

    0: not even 1 fits; scaling.LARGEST: nothing grows.

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
            needs[batch] = serve(changed, on_gpu=on_gpu).with_failed().high_bytes
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
    tries = 0
    while fails - holds > _step(holds):
        guess = _guess(needs, capacity, holds, fails, tries)
        if need(guess) <= capacity:
            holds = guess
        else:
            fails = guess
        tries += 1
    return holds


def _guess(needs: dict[int, int], capacity: int, holds: int, fails: int, tries: int) -> int:
    """Where a line would have it, then right beside that, then in the middle, and so on."""
    turn = tries % 3
    if turn == 2 or not holds or needs[fails] <= needs[holds]:
        return (holds + fails) // 2
    share = (capacity - needs[holds]) / (needs[fails] - needs[holds])
    guess = holds + int(share * (fails - holds)) + turn * _step(holds)
    return min(max(guess, holds + 1), fails - 1)


def _step(batch: int) -> int:
    return 1 + batch // _PARTS
