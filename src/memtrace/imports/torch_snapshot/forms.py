"""The forms that torch has given its snapshots, read into one.

    1.11 to 1.12   a list of segments (torch.cuda.memory_snapshot()); no events
    1.13           {"segments": ...}; who asked is in each block's "history"
    2.0            also "device_traces": events, without times; no address in blocks
    2.1            blocks have "requested_size" and "frames"; "allocator_settings"; expandable
                   segments: segment_map, segment_unmap, "is_expandable"
    2.2 and later  "time_us" of events; 2.6: "external_annotations", "compile_context",
                   "user_metadata"; 2.9: "fx_..." in frames

Keys that are not known are passed over; what a form lacks stays unknown.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

from memtrace.errors import MemtraceError
from memtrace.imports.torch_snapshot.frames import Stacks

ALLOC, FREE_REQUESTED, FREE_COMPLETED = 1, 2, 3
SEGMENT_ALLOC, SEGMENT_FREE, SEGMENT_MAP, SEGMENT_UNMAP, OOM, SNAPSHOT = 4, 5, 6, 7, 8, 9
#: Action -> its code, as in csrc/record/event.h. "free" is an old word for both in one.
ACTIONS = {
    "alloc": ALLOC, "free_requested": FREE_REQUESTED, "free_completed": FREE_COMPLETED,
    "segment_alloc": SEGMENT_ALLOC, "segment_free": SEGMENT_FREE, "segment_map": SEGMENT_MAP,
    "segment_unmap": SEGMENT_UNMAP, "oom": OOM, "snapshot": SNAPSHOT,
}  # fmt: skip

Pool = tuple[int, int]
DEFAULT_POOL: Pool = (0, 0)
_MOST_DEVICES = 254
_MOST_BYTES = 1 << 48  # as in csrc/analyse/lifetimes.cpp: more is damage
_MOST_ADDRESS = 1 << 62
_MOST_US = 1 << 53


@dataclass(frozen=True)
class Block:
    """A part of a segment, as it was at the end."""

    address: int
    size_bytes: int
    requested_bytes: int
    active: bool
    allocated: bool
    stack: int


@dataclass(frozen=True)
class Segment:
    """A range of device memory that the allocator held at the end."""

    address: int
    size_bytes: int
    stream: int
    pool: Pool
    small: bool
    expandable: bool
    blocks: tuple[Block, ...]


@dataclass
class Device:
    """What a snapshot says of one device: its events in order, and its end."""

    name: str
    segments: list[Segment] = field(default_factory=list)
    actions: bytearray = field(default_factory=bytearray)
    addresses: array[int] = field(default_factory=lambda: array("q"))  # oom: free bytes
    sizes: array[int] = field(default_factory=lambda: array("q"))
    streams: array[int] = field(default_factory=lambda: array("q"))
    times_us: array[int] = field(default_factory=lambda: array("q"))
    stacks: array[int] = field(default_factory=lambda: array("I"))
    pools: dict[int, Pool] = field(default_factory=dict)  # by place, where the event says it
    block_bytes: dict[int, int] = field(default_factory=dict)  # by place, of free_completed
    skipped: int = 0  # events of an action that we do not know


@dataclass(frozen=True)
class Annotation:
    """The beginning or end of a range of the program that torch's profiler named."""

    time_us: int
    name: str
    begins: bool


@dataclass(frozen=True)
class Snapshot:
    """A snapshot in one form. `timed`: events have times; else their places stand for them."""

    devices: list[Device]
    stacks: Stacks
    settings: dict[str, Any]
    annotations: list[Annotation]
    timed: bool


def read_forms(value: Any, *, most_items: int) -> Snapshot:
    """A snapshot of any form.

    Args:
        value: What the pickle holds. It must outlive the result's stacks.
        most_items: how many items its lists may have in all: what a file of its size can hold.

    Raises:
        MemtraceError: it is no snapshot; the line says where it is not.
    """
    if isinstance(value, list):
        value = {"segments": value}
    if not isinstance(value, dict) or not ("segments" in value or "device_traces" in value):
        raise MemtraceError("it is a pickle, but not of a memory snapshot: it has no segments")
    return _Reading(value, most_items).run()


class _Reading:
    def __init__(self, snapshot: dict[Any, Any], most_items: int) -> None:
        self._snapshot = snapshot
        self._most_items = most_items
        self._items = 0
        self._stacks = Stacks()
        self._devices: dict[int, Device] = {}
        names = snapshot.get("memtrace_devices")
        self._names = names if isinstance(names, list) else []

    def run(self) -> Snapshot:
        cpus = self._names.count("cpu")
        if cpus > 1:  # as one process, each would free memory of the others
            raise MemtraceError(
                f"it was exported from {cpus:,} processes and does not tell their memory apart "
                "on the CPU: open the trace that it was exported from"
            )
        # Frames that only an export of ours has, first: those of the events are the same lists.
        for place, segment in self._list(self._snapshot.get("segments"), "segments"):
            self._segment(segment, f"segment {place}")
        timed = True
        for index, trace in self._list(self._snapshot.get("device_traces"), "device_traces"):
            if trace:
                timed &= self._trace(index, trace)
        settings = self._snapshot.get("allocator_settings")
        return Snapshot(
            [self._devices[index] for index in sorted(self._devices)],
            self._stacks,
            settings if isinstance(settings, dict) else {},
            list(self._annotations()),
            timed,
        )

    def _list(self, value: Any, what: str) -> Iterator[tuple[int, Any]]:
        if value is None:
            return
        if not isinstance(value, (list, tuple)):
            _refuse(f"{what} is no list")
        # A list can be in a pickle a thousand times at the cost of one: that is no snapshot.
        self._items += len(value)
        if self._items > self._most_items:
            _refuse("the same list is in it again and again")
        yield from enumerate(value)

    def _device(self, index: int) -> Device:
        if index not in self._devices:
            if not 0 <= index < _MOST_DEVICES:
                _refuse(f"device {index}")
            name = self._names[index] if index < len(self._names) else None
            self._devices[index] = Device("cpu" if name == "cpu" else f"cuda:{index}")
        return self._devices[index]

    def _segment(self, segment: Any, where: str) -> None:
        if not isinstance(segment, dict):
            _refuse(f"{where} is no dict")
        address, blocks = _integer(segment, "address", where), []
        at = address
        for place, block in self._list(segment.get("blocks"), f"{where}, blocks"):
            blocks.append(self._block(block, at, f"{where}, block {place}"))
            at += blocks[-1].size_bytes
        size_bytes = _size(segment, "total_size", where)
        if at - address > size_bytes:
            _refuse(f"{where}: its blocks are larger than itself")
        self._device(_integer(segment, "device", where, 0)).segments.append(
            Segment(
                _address(address, where),
                size_bytes,
                _integer(segment, "stream", where, 0),
                _pool(segment.get("segment_pool_id")),
                segment.get("segment_type") == "small",
                segment.get("is_expandable") is True,
                tuple(blocks),
            )
        )

    def _block(self, block: Any, address: int, where: str) -> Block:
        if not isinstance(block, dict):
            _refuse(f"{where} is no dict")
        size_bytes = _size(block, "size", where)
        state = block.get("state")
        active = isinstance(state, str) and state.startswith("active")
        requested, frames = block.get("requested_size"), block.get("frames")
        history = block.get("history")
        if isinstance(history, list) and history and isinstance(history[0], dict):
            # The last that was allocated here, first; the others lay in this block before.
            requested = history[0].get("real_size") if requested is None else requested
            frames = history[0].get("frames") if frames is None else frames
        if type(requested) is not int or not 0 <= requested <= size_bytes:
            requested = size_bytes
        return Block(
            address,
            size_bytes,
            requested,
            active,
            state == "active_allocated",
            self._stacks.number(frames) if active else 0,
        )

    def _trace(self, index: int, trace: Any) -> bool:
        """Reads the events of one device; whether they all have a time."""
        device = self._device(index)
        actions, addresses, sizes = device.actions, device.addresses, device.sizes
        streams, times, stacks = device.streams, device.times_us, device.stacks
        number, timed = self._stacks.number, True
        at = -1
        try:
            for place, event in self._list(trace, "a device's trace"):
                at = place
                action = ACTIONS.get(event["action"], 0)
                if action == 0:
                    device.skipped += 1
                    continue
                addresses.append(event["device_free" if action == OOM else "addr"])
                sizes.append(event["size"])
                streams.append(event.get("stream", 0))
                time_us = event.get("time_us")
                if time_us is None:
                    timed, time_us = False, 0
                times.append(time_us)
                frames = event.get("frames")
                stacks.append(0 if frames is None else number(frames))
                pool = event.get("mempool_id", event.get("segment_pool_id"))
                if pool is not None and pool != DEFAULT_POOL:
                    device.pools[len(actions)] = _pool(pool)
                block_bytes = event.get("block_size")
                if type(block_bytes) is int and action == FREE_COMPLETED and block_bytes > 0:
                    device.block_bytes[len(actions)] = block_bytes
                actions.append(action)
        except (TypeError, KeyError, AttributeError, OverflowError) as error:
            _refuse(f"event {at} of device {index} is none ({type(error).__name__}: {error})")
        if actions and min(min(addresses), min(sizes), min(times)) < 0:
            _refuse(f"an event of device {index} has a negative address, size or time")
        if actions and max(times) > _MOST_US:
            _refuse(f"an event of device {index} has a time that no clock shows")
        return timed

    def _annotations(self) -> Iterator[Annotation]:
        value = self._snapshot.get("external_annotations")
        if not isinstance(value, list):
            return
        for _, entry in self._list(value, "external_annotations"):
            if not isinstance(entry, dict):
                continue
            name, stage, time_us = entry.get("name"), entry.get("stage"), entry.get("time_us")
            if isinstance(name, str) and type(time_us) is int and stage in ("START", "END"):
                yield Annotation(time_us, name, stage == "START")


def _integer(values: dict[Any, Any], key: str, where: str, default: int | None = None) -> int:
    value = values.get(key, default)
    if type(value) is not int:
        _refuse(f"{where} has no {key}")
    if not -(1 << 63) <= value < 1 << 63:
        _refuse(f"{where}: {key} is out of range")
    return value


def _size(values: dict[Any, Any], key: str, where: str) -> int:
    value = _integer(values, key, where)
    if not 0 <= value <= _MOST_BYTES:
        _refuse(f"{where}: {key} is {value}")
    return value


def _address(value: int, where: str) -> int:
    if not 0 < value <= _MOST_ADDRESS:
        _refuse(f"{where}: its address is {value}")
    return value


def _pool(value: Any) -> Pool:
    if isinstance(value, (tuple, list)) and len(value) == 2:
        first, second = value
        if type(first) is int and type(second) is int:
            return first & (1 << 64) - 1, second & (1 << 64) - 1
    return DEFAULT_POOL


def _refuse(what: str) -> NoReturn:
    raise MemtraceError(f"it is not a memory snapshot of torch's: {what}")
