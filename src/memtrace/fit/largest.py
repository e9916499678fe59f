"""The largest batch, or the longest sequence, with which a program would still fit."""

from __future__ import annotations

from collections.abc import Callable

from memtrace.fit.served import serve
from memtrace.replay.requests import Requests
from memtrace.whatif.scaling import LARGEST, Scaling


def largest(
    requests: Requests,
    capacity_bytes: int,
    dimension: str = "batch",
    *,
    on_gpu: bool | None = None,
    then: Callable[[Requests], Requests] = lambda requests: requests,
) -> int:
    """By bisection on predictions: more needs no less.

    Args:
        capacity_bytes: what the allocator may take of the device.
        dimension: one of scaling.DIMENSIONS; others stay as they are.
        on_gpu: serve requests of the CPU as a GPU would; by default each as its own device does.
        then: what else is changed.

    Returns:
        0: not even 1 fits; scaling.LARGEST: nothing grows, or far less than the capacity.

    Raises:
        MemtraceError: the trace doesn't tell how memory follows the dimension.
    """
    scaling = Scaling(requests)
    gpu = not requests.on_cpu if on_gpu is None else on_gpu

    def fits(value: int) -> bool:
        changed = scaling.at(requests, {dimension: value}).requests
        return serve(then(changed), on_gpu=gpu).high_bytes <= capacity_bytes

    holds, fails = 0, scaling.recorded_values(dimension)[-1]
    while fits(fails):
        if fails == LARGEST:
            return LARGEST
        holds, fails = fails, min(2 * fails, LARGEST)
    while fails - holds > 1:
        middle = (holds + fails) // 2
        if fits(middle):
            holds = middle
        else:
            fails = middle
    return holds
