"""What a recording tells of the device below the allocator: its size, and what others held of it."""

from __future__ import annotations

from dataclasses import dataclass

from memtrace.analyse.counters import equals, integers, may_hold
from memtrace.analyse.target import total_bytes
from memtrace.errors import MemtraceError
from memtrace.replay.requests import Requests


@dataclass(frozen=True)
class Device:
    """A device's memory.

    Attributes:
        total_bytes: all of it.
        outside_bytes: what torch's allocator cannot get of it: CUDA's context, libraries, other
            processes.
        outside_known: False: nothing in the trace tells, and 0 is taken.
    """

    total_bytes: int
    outside_bytes: int
    outside_known: bool

    @property
    def capacity_bytes(self) -> int:
        """What the allocator can get."""
        return max(self.total_bytes - self.outside_bytes, 0)

    def of_size(self, total_bytes: int) -> Device:
        """Another device, of which as much is not torch's."""
        return Device(total_bytes, self.outside_bytes, self.outside_known)


def recorded_device(requests: Requests) -> Device:
    """The device that the requests were made of; outside memory as the most that was ever seen.

    Raises:
        MemtraceError: the trace does not tell how large it is.
    """
    total = total_bytes(requests.process, requests.device)
    if total is None:
        raise MemtraceError(
            f"the trace does not tell how much memory {requests.device} has: give --capacity"
        )
    seen = [*_seen_in_failures(requests, total), *_seen_in_samples(requests)]
    return Device(total, max(seen, default=0), bool(seen))


def _seen_in_failures(requests: Requests, total: int) -> list[int]:
    free = {f.place: f.device_free_bytes for f in requests.failures if f.device_free_bytes}
    found: list[int] = []
    if not free:
        return found
    for group in requests.trace.datasets["events"].row_groups(requests.process.key):
        if not may_hold(group, "action", "oom") or not may_hold(group, "device", requests.device):
            continue
        table = group.read(["seq", "device", "action", "reserved_bytes"])
        chosen = equals(table, "device", requests.device) & equals(table, "action", "oom")
        reserved = integers(table, "reserved_bytes", missing=0)[chosen]
        for seq, held in zip(integers(table, "seq")[chosen], reserved, strict=True):
            if (left := free.get(float(seq))) is not None:
                found.append(total - left - int(held))
    return found


def _seen_in_samples(requests: Requests) -> list[int]:
    """From each look at the device: what was used, less what torch had reserved just then."""
    found, reserved = [], 0
    for group in requests.trace.datasets["samples"].row_groups(requests.process.key):
        for row in group.read(["target", "source", "metric", "value_bytes"]).to_pylist():
            if row["target"] != requests.device:
                continue
            name = (row["source"], row["metric"])
            if name == ("torch", "reserved_bytes.current"):
                reserved = row["value_bytes"]
            elif name == ("mem_get_info", "used"):
                found.append(row["value_bytes"] - reserved)
    return [outside for outside in found if outside >= 0]
