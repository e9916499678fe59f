"""Requests as an allocator serves them, and the least capacity with which it can.

Torch's allocator gives its cache back before it fails. So a program fits not where the peak of its
reserved memory does, but where it completes: that is found by replaying it with less and less.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from memtrace.analyse.counters import equals, integers
from memtrace.fit.gpu_kernels import as_on_gpu
from memtrace.fit.stage_needs import allocated_at
from memtrace.replay.device import Device
from memtrace.replay.engine import Addresses, Replayer
from memtrace.replay.engine import serve as serve_on_gpu
from memtrace.replay.outcome import Outcome, serve_on_host
from memtrace.replay.requests import Requests

#: Segments are multiples of it.
_STEP_BYTES = 2 << 20
_ROOMY = Device(total_bytes=1 << 48, outside_bytes=0, outside_known=True)
_ORDERS: tuple[Addresses, ...] = ("rising", "falling")


@dataclass(frozen=True)
class Served:
    """What a program needs of a device.

    Attributes:
        outcome: with as much memory as it likes.
        low_bytes: the least with which it completes, if the driver gives addresses that suit it.
        high_bytes: if they do not.
        caveats: what is not counted, and why the two differ; one line each.
    """

    outcome: Outcome
    low_bytes: int
    high_bytes: int
    caveats: tuple[str, ...] = ()

    def with_failed(self) -> Served:
        """With what failed while it was recorded: it needs what was there then, and itself."""
        wanted = [
            allocated_at(self.outcome, failure.place) + failure.asked_bytes
            for failure in self.outcome.requests.failures
        ]
        low, high = max([self.low_bytes, *wanted]), max([self.high_bytes, *wanted])
        return replace(self, low_bytes=low, high_bytes=high)


def serve(requests: Requests, *, on_gpu: bool) -> Served:
    """Serves requests on the device they were made of, or those of the CPU as if of a GPU."""
    if requests.on_cpu and not on_gpu:
        outcome = serve_on_host(requests)
        peak = outcome.peak().total_bytes
        return Served(outcome, peak, peak)
    if requests.on_cpu:
        requests = replace(as_on_gpu(requests), device="cuda:0", changed=True)
    outcome = serve_on_gpu(requests, device=_ROOMY)
    replayer = Replayer(requests, device=_ROOMY)
    held = max(outcome.peak(of).total_bytes for of in ("allocated", "active"))
    if not requests.changed:  # what is there before the first request lies where it lay
        there = equals(requests.rows, "origin", "preexisting")
        held = max(held, int(integers(requests.rows, "block_bytes")[there].sum()))
    reserved = outcome.peak("reserved").total_bytes

    def completes(addresses: Addresses) -> Callable[[int], bool]:
        return lambda size: (
            replayer.run(device=Device(size, 0, True), addresses=addresses).completes
        )

    least = [_least(completes(addresses), held, reserved) for addresses in _ORDERS]
    return Served(outcome, min(least), max(least), outcome.caveats)


def _least(completes: Callable[[int], bool], low: int, high: int) -> int:
    """Between what cannot be less and what is enough, in whole steps; found by halving."""
    low = -(-low // _STEP_BYTES) - 1  # not enough
    high = max(-(-high // _STEP_BYTES), low + 1)
    while high - low > 1:
        middle = (low + high) // 2
        if completes(middle * _STEP_BYTES):
            high = middle
        else:
            low = middle
    return high * _STEP_BYTES
