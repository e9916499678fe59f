"""The smallest device on which requests are all served."""

from __future__ import annotations

from dataclasses import dataclass

from memtrace.errors import MemtraceError
from memtrace.replay.conf import MIB, AllocatorConf
from memtrace.replay.device import Device
from memtrace.replay.engine import Addresses, Failed, Replayer, Run
from memtrace.replay.requests import Requests

_MOST_BYTES = 1 << 50


@dataclass(frozen=True)
class Least:
    """With one order of addresses.

    Attributes:
        total_bytes: of the device, in whole MiB, with what others hold of it.
        run: on that device.
        fails: the first request that fails on a device of one MiB less.
    """

    total_bytes: int
    run: Run
    fails: Failed | None


@dataclass(frozen=True)
class LeastCapacity:
    """The least with addresses that rise and that fall; what lies between is not known."""

    requests: Requests
    conf: AllocatorConf | None
    outside_bytes: int
    found: tuple[Least, ...]

    @property
    def low(self) -> Least:
        return min(self.found, key=lambda one: one.total_bytes)

    @property
    def high(self) -> Least:
        return max(self.found, key=lambda one: one.total_bytes)


def least_capacity(
    requests: Requests,
    *,
    conf: AllocatorConf | None = None,
    memory_fraction: float | None = None,
    device: Device | None = None,
) -> LeastCapacity:
    """By bisection to 1 MiB. `device`: only what others hold of it counts.

    Raises:
        MemtraceError: there is no caching allocator of the device; or no device is large enough,
            as where a request is larger than any fraction allows.
    """
    replayer = Replayer(requests, device=device)

    def least(addresses: Addresses) -> Least:
        def attempt(total_mib: int) -> Run:
            return replayer.run(
                conf,
                device=replayer.device.of_size(total_mib * MIB),
                memory_fraction=memory_fraction,
                addresses=addresses,
            )

        fails = replayer.device.outside_bytes // MIB
        enough = fails + 2
        while not attempt(enough).completes:
            fails, enough = enough, enough * 2
            if enough * MIB > _MOST_BYTES:
                raise MemtraceError("the requests are served by no device, however large")
        while enough - fails > 1:
            middle = (enough + fails) // 2
            if attempt(middle).completes:
                enough = middle
            else:
                fails = middle
        failed = attempt(fails).failed
        return Least(enough * MIB, attempt(enough), failed[0] if failed else None)

    orders: tuple[Addresses, Addresses] = ("rising", "falling")
    found = tuple(least(addresses) for addresses in orders)
    return LeastCapacity(requests, conf, replayer.device.outside_bytes, found)
