"""The memory events of a device in torch's order, and what it held before the first.

Each event has torch's total after it, so the total before it is known as well: two threads' events
whose times are the wrong way round are told by their totals. What torch counted before the first
event is memory from before the profile. A part of it has addresses: what is freed and was never
seen to be allocated. The rest is known as a sum alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memtrace.imports.chrome_trace.events import NOT_TOLD, Changes

_LOOK_AHEAD = 32
_LOOK_AHEAD_NS = 1_000_000

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class DeviceTotals:
    """One device: 0 is the CPU, 1 + i is cuda:i.

    Attributes:
        order: places in Changes, in torch's order.
        before: address -> bytes of memory from before the profile that is freed in it.
        before_bytes: more of it, of which only the sum is known.
        jumps: how often torch's total changed between two events, by memory that no event tells.
        differs_bytes: the largest difference between torch's total and that of the events.
    """

    code: int
    order: list[int]
    before: dict[int, int]
    before_bytes: int
    jumps: int
    differs_bytes: int


def device_totals(changes: Changes) -> list[DeviceTotals]:
    """Of each device that has events, the CPU first."""
    devices = np.frombuffer(changes.device, np.uint8)
    times = np.frombuffer(changes.time_ns, np.int64)
    found = []
    for device in np.unique(devices).tolist():
        places = np.flatnonzero(devices == device)
        by_time = places[np.argsort(times[places], kind="stable")].tolist()
        order, jumps = _in_torchs_order(changes, by_time)
        found.append(_totals_of(changes, device, order, jumps))
    return found


def _in_torchs_order(changes: Changes, places: list[int]) -> tuple[list[int], int]:
    """The places, and how often no event continues torch's total."""
    totals, times = changes.total_bytes, changes.time_ns
    order: list[int] = []
    waiting: list[int] = []  # those that are next by time
    live: set[int] = set()
    jumps, coming = 0, iter(places)
    total = NOT_TOLD
    while True:
        while len(waiting) < _LOOK_AHEAD and (place := next(coming, None)) is not None:
            waiting.append(place)
        if not waiting:
            return order, jumps
        found = None
        if total != NOT_TOLD:
            latest = times[waiting[0]] + _LOOK_AHEAD_NS
            ahead = (at for at, p in enumerate(waiting) if times[p] <= latest)
            found = next((at for at in ahead if _goes_on(changes, waiting, at, total, live)), None)
            jumps += found is None and totals[waiting[0]] != NOT_TOLD
        place = waiting.pop(found or 0)
        order.append(place)
        total = totals[place]
        (live.add if changes.size_bytes[place] > 0 else live.discard)(changes.address[place])


def _goes_on(changes: Changes, waiting: list[int], at: int, total: int, live: set[int]) -> bool:
    """Whether an event may be the next one after that total."""
    place = waiting[at]
    address, size = changes.address[place], changes.size_bytes[place]
    if changes.total_bytes[place] - size != total:
        return False
    if at == 0 or size < 0:
        # Not freed before it was allocated, unless it is from before the profile.
        sooner = waiting[:at] if address not in live else ()
        return not any(changes.address[p] == address for p in sooner)
    return address not in live


def _totals_of(changes: Changes, device: int, order: list[int], jumps: int) -> DeviceTotals:
    addresses, sizes, totals = changes.address, changes.size_bytes, changes.total_bytes
    before = _freed_only(changes, order)
    known = sum(before.values())
    first = order[0]
    began = totals[first] - sizes[first] if totals[first] != NOT_TOLD else known
    rest = max(began - known, 0)
    live, total, differs = dict(before), known + rest, 0
    for place in order:
        held = live.pop(addresses[place], 0)
        if sizes[place] > 0:  # what was there has ended unseen
            live[addresses[place]] = sizes[place]
            total += sizes[place] - held
        else:
            total -= held
        if totals[place] != NOT_TOLD:
            differs = max(differs, abs(totals[place] - total))
    return DeviceTotals(device, order, before, rest, jumps, differs)


def _freed_only(changes: Changes, order: list[int]) -> dict[int, int]:
    """Blocks whose free is the first that is seen of their address."""
    seen: set[int] = set()
    before: dict[int, int] = {}
    for place in order:
        address, size = changes.address[place], changes.size_bytes[place]
        if size < 0 and address not in seen:
            before[address] = -size
        seen.add(address)
    return before
