"""Out of memory: what was asked for and by whom, what was in the way, what would have made it fit.

Torch gives up only after it has given all segments without a live block back to the device and
tried again. So at an OOM the memory that is reserved but not used lies in pieces that are too
small, in the other size class, in another stream's memory, or in a private pool.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from memtrace.analyse.breakdown import Breakdown, break_down, columns_for, not_recorded
from memtrace.analyse.counters import (
    Moment,
    equals,
    integers,
    last_moment,
    may_hold,
    moment_at_seq,
)
from memtrace.analyse.fragmentation import Fragmentation, fragmentation_at, fragmentation_of
from memtrace.analyse.layout import DEFAULT_POOL, allocator_settings, layout_at
from memtrace.analyse.live_set import live_allocations
from memtrace.analyse.owners import owner_columns
from memtrace.analyse.request import Fit, Request, find_fits
from memtrace.analyse.stack import Frame, source_of, stacks_by_id
from memtrace.analyse.target import check_device, find_process
from memtrace.errors import MemtraceError
from memtrace.trace import Process, Trace

#: Operators that only make the storage for another one (csrc/hook/operator_names.cpp).
_FACTORIES = frozenset(
    f"aten::{name}"
    for name in (
        "empty", "empty_strided", "empty_like", "resize_", "new_empty", "new_empty_strided",
        "resize_as_", "empty_permuted", "_empty_affine_quantized", "empty.memory_format",
    )
)  # fmt: skip
_MOST_PARENTS = 512


@dataclass(frozen=True)
class Oom:
    """A request that failed.

    Attributes:
        asked_bytes: CUDA: as the allocator rounded it; CPU: as it was asked for.
        device_free_bytes: what the device had free then, for all processes; of the CPU the memory
            that the host had available. None: not known.
        operator: the innermost that is not a factory, else the outermost factory.
        forward_operator: in a backward: of the forward, whose module and line are told.
        allocated_bytes, reserved_bytes: the device's totals then.
        went_on: something was allocated on the device afterwards: the program caught it.
    """

    process: Process
    moment: Moment
    asked_bytes: int
    device_free_bytes: int | None
    stream: int
    pool: str
    operator: str | None
    top_operator: str | None
    forward_operator: str | None
    module: str | None
    module_class: str | None
    source: str | None
    stack: tuple[Frame, ...]
    went_on: bool

    @property
    def device(self) -> str:
        return self.moment.device

    @property
    def time_ns(self) -> int:
        return self.moment.time_ns

    @property
    def allocated_bytes(self) -> int:
        return self.moment.allocated_bytes or 0


@dataclass(frozen=True)
class PostMortem:
    """An OOM with what was held at that moment, and what would have made it fit.

    Attributes:
        needed_bytes: what the allocator had to get from the device for it: a whole segment.
        short_bytes: by how much the device (or the limit) had too little; 0: it had enough.
        limit_bytes: what this process may reserve, where a limit was set.
        total_bytes: the device's; outside_bytes: what of it neither torch had reserved nor was
            free: CUDA contexts, libraries, other processes.
        neighbours: the other processes of this trace that had reserved memory of the same device
            at that moment, and how much: part of the outside bytes.
        unusable: free bytes in blocks by the reason (request.REASONS) that they were of no use.
        largest_usable_bytes: the largest free block among those that the request could use.
        held: who held what was allocated; `categories`: the same by category.
    """

    oom: Oom
    number: int
    ooms: int
    needed_bytes: int
    short_bytes: int
    limit_bytes: int | None
    total_bytes: int | None
    outside_bytes: int | None
    neighbours: tuple[tuple[Process, int], ...]
    unusable: dict[str, int]
    largest_usable_bytes: int
    held: Breakdown
    categories: Breakdown
    fits: tuple[Fit, ...]
    fragmentation: Fragmentation | None

    @property
    def unusable_bytes(self) -> int:
        return sum(self.unusable.values())


@dataclass(frozen=True)
class _Event:
    process: Process
    seq: int
    device: str
    row: dict[str, Any]


_OOM_COLUMNS = (
    "seq", "time_ns", "device", "action", "size_bytes", "stream", "pool", "thread_id", "stack_id",
    "operator_call_id", "device_free_bytes",
)  # fmt: skip


def count_ooms(trace: Trace, process: Process, device: str) -> int:
    """How many requests of a process failed on a device."""
    return sum(1 for _ in _events(trace, process, device))


def last_oom(trace: Trace, process: Process, device: str) -> Oom | None:
    """The last request that failed on the device."""
    found = list(_events(trace, process, device))
    return _oom(trace, found[-1]) if found else None


def list_ooms(
    trace: Trace, *, device: str | None = None, process: str | int | None = None
) -> list[Oom]:
    """Every request that failed, in the order of time, process by process."""
    return [_oom(trace, event) for event in _all_events(trace, device, process)]


def post_mortem(
    trace: Trace,
    *,
    number: int | None = None,
    device: str | None = None,
    process: str | int | None = None,
    by: str = "source",
    top: int | None = None,
) -> PostMortem | None:
    """The failed request of this number (from 1; by default the last); None where none failed.

    Raises:
        MemtraceError: there are not so many.
    """
    columns_for(by)
    found = _all_events(trace, device, process)
    if not found:
        return None
    number = len(found) if number is None else number
    event = found[_place(number, len(found))]
    return _examine(trace, _oom(trace, event), number, len(found), by, top)


def fragmentation_at_oom(
    trace: Trace,
    number: int,
    *,
    device: str | None = None,
    process: str | int | None = None,
    by: str = "source",
) -> Fragmentation:
    """What was reserved and not used when the request of this number (from 1) failed.

    Raises:
        MemtraceError: there are not so many, or it was the CPU's.
    """
    owner_columns(by)
    found = _all_events(trace, device, process)
    event = found[_place(number, len(found))]
    if event.device == "cpu":
        raise MemtraceError(f"out-of-memory {number:,} is the CPU's, which has no segments")
    moment = moment_at_seq(trace, process=event.process.key, device=event.device, seq=event.seq)
    return fragmentation_at(trace, moment, event.process, why="oom", by=by)


def _place(number: int, ooms: int) -> int:
    if not 1 <= number <= ooms:
        failed = f"{ooms:,} allocations failed" if ooms != 1 else "1 allocation failed"
        raise MemtraceError(f"no out-of-memory {number:,} in this trace: {failed}")
    return number - 1


# ---- finding them --------------------------------------------------------------------------------


def _all_events(trace: Trace, device: str | None, process: str | int | None) -> list[_Event]:
    check_device(trace, device)
    processes = trace.process_list if process is None else [find_process(trace, process)]
    return [event for one in processes for event in _events(trace, one, device)]


def _events(trace: Trace, process: Process, device: str | None) -> Iterator[_Event]:
    for group in trace.datasets["events"].row_groups(process.key):
        # Only an OOM has free bytes of the device: the footers say where to look.
        free = group.bounds("device_free_bytes")
        if (free is not None and free.nulls == group.rows) or not may_hold(group, "action", "oom"):
            continue
        if device is not None and not may_hold(group, "device", device):
            continue
        table = group.read(_OOM_COLUMNS)
        chosen = equals(table, "action", "oom")
        if device is not None:
            chosen &= equals(table, "device", device)
        for row in table.filter(pa.array(chosen)).to_pylist():
            yield _Event(process, row["seq"], row["device"], row)


def _oom(trace: Trace, event: _Event) -> Oom:
    key, row = event.process.key, event.row
    calls = _calls(trace, key, row["operator_call_id"])
    names = [str(call["name"]) for call in calls]
    outermost = names[-1] if names else None
    forward = _forward(trace, key, calls)
    frames = _frames(trace, key, row["stack_id"])
    asking = frames
    if forward is not None:
        frames = _frames(trace, key, forward["stack_id"]) or frames
    called = next((frame for frame in frames if frame.module), None)
    module = next((call["module"] for call in (forward, *calls) if call and call["module"]), None)
    return Oom(
        process=event.process,
        moment=moment_at_seq(trace, process=key, device=event.device, seq=event.seq),
        asked_bytes=row["size_bytes"] or 0,
        # Of the CPU, 0 is "not known".
        device_free_bytes=row["device_free_bytes"] or (None if event.device == "cpu" else 0),
        stream=row["stream"] or 0,
        pool=row["pool"] or DEFAULT_POOL,
        operator=next((name for name in names if name not in _FACTORIES), outermost),
        top_operator=outermost,
        forward_operator=None if forward is None else forward["name"],
        module=called.module if called is not None else module,
        module_class=called.module_class if called is not None else None,
        source=source_of(frames),
        stack=asking or frames,
        went_on=_allocates_after(trace, key, event.device, event.seq),
    )


_CALL_COLUMNS = [
    "call_id", "parent_call_id", "name", "scope", "module", "stack_id", "forward_call_id",
]  # fmt: skip


def _calls(trace: Trace, key: str, call_id: int | None) -> list[dict[str, Any]]:
    """A call of an operator and those around it, as far as they are known; the innermost first."""
    calls: list[dict[str, Any]] = []
    for _ in range(_MOST_PARENTS):
        row = None if call_id is None else _call(trace, key, call_id)
        if row is None:
            break
        if row["name"] is not None and row["scope"] != "user_scope":
            calls.append(row)
        call_id = row["parent_call_id"]
    return calls


def _forward(trace: Trace, key: str, calls: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The forward call that the calls are the backward of."""
    call_id = next((call["forward_call_id"] for call in calls if call["forward_call_id"]), None)
    return None if call_id is None else _call(trace, key, call_id)


def _frames(trace: Trace, key: str, stack_id: int | None) -> tuple[Frame, ...]:
    return () if stack_id is None else stacks_by_id(trace, key, (stack_id,)).get(stack_id, ())


def _call(trace: Trace, key: str, call_id: int) -> dict[str, Any] | None:
    for group in trace.datasets["operators"].row_groups(key):
        if not may_hold(group, "call_id", call_id):
            continue
        places = np.flatnonzero(integers(group.read(["call_id"]), "call_id") == call_id)
        if len(places):
            row: dict[str, Any] = group.read(_CALL_COLUMNS).slice(int(places[0]), 1).to_pylist()[0]
            return row
    return None


def _allocates_after(trace: Trace, key: str, device: str, seq: int) -> bool:
    for group in trace.datasets["events"].row_groups(key):
        bounds = group.bounds("seq")
        if bounds is not None and bounds.high is not None and bounds.high <= seq:
            continue
        if not may_hold(group, "device", device) or not may_hold(group, "action", "alloc"):
            continue
        table = group.read(["seq", "device", "action"])
        later = (integers(table, "seq") > seq) & equals(table, "device", device)
        if bool((later & equals(table, "action", "alloc")).any()):
            return True
    return False


# ---- what was in the way -------------------------------------------------------------------------


def _examine(
    trace: Trace, oom: Oom, number: int, ooms: int, by: str, top: int | None
) -> PostMortem:
    key, device = oom.process.key, oom.device
    columns = [*columns_for(by), *columns_for("category"), "alloc_seq"]
    live = live_allocations(trace, oom.moment, of="allocated", columns=columns)

    def held(column: str, most: int | None) -> Breakdown:
        return break_down(
            live,
            by=column,
            total_bytes=oom.moment.allocated_bytes,
            top=most,
            nameless=not_recorded(column, oom.process.row),
        )

    facts: dict[str, Any] = {
        "oom": oom, "number": number, "ooms": ooms, "held": held(by, top),
        "categories": held("category", None),
    }  # fmt: skip
    if device == "cpu":
        free = oom.device_free_bytes
        return PostMortem(
            **facts,
            needed_bytes=oom.asked_bytes,
            short_bytes=0 if free is None else max(oom.asked_bytes - free, 0),
            limit_bytes=None,
            total_bytes=None,
            outside_bytes=None,
            neighbours=(),
            unusable={},
            largest_usable_bytes=0,
            fits=(),
            fragmentation=None,
        )
    layout = layout_at(
        trace, oom.moment, oom.process, columns=[*owner_columns("source"), "alloc_seq"]
    )
    request = Request(
        layout=layout,
        asked_bytes=oom.asked_bytes,
        stream=oom.stream,
        pool=oom.pool,
        device_free_bytes=oom.device_free_bytes,
        total_bytes=total_bytes(oom.process, device),
        limit_bytes=_limit(trace, oom),
    )
    return PostMortem(
        **facts,
        needed_bytes=request.needed_bytes,
        short_bytes=request.short_bytes,
        limit_bytes=request.limit_bytes,
        total_bytes=request.total_bytes,
        outside_bytes=request.outside_bytes,
        neighbours=tuple(_neighbours(trace, oom)),
        unusable=request.unusable(),
        largest_usable_bytes=request.largest_usable_bytes(),
        fits=tuple(find_fits(request, _step_start(trace, key, oom))),
        fragmentation=fragmentation_of(layout, why="oom", by="source"),
    )


def _neighbours(trace: Trace, oom: Oom) -> Iterator[tuple[Process, int]]:
    own = oom.process
    uuid = _uuids(own).get(oom.device)
    if not uuid:
        return
    at_ns = (own.row["clock_origin_ns"] or 0) + oom.time_ns
    for process in trace.process_list:
        if process.key == own.key or process.row["boot_id"] != own.row["boot_id"]:
            continue
        until_ns = at_ns - (process.row["clock_origin_ns"] or 0)
        if until_ns < 0 or until_ns > (process.row["end_time_ns"] or until_ns):
            continue
        for device in trace.devices_by_process[process.key]:
            if _uuids(process).get(device) != uuid:
                continue
            moment = last_moment(trace, process=process.key, device=device, until_ns=until_ns)
            if moment is not None and moment.reserved_bytes:
                yield process, moment.reserved_bytes


def _uuids(process: Process) -> dict[str, str]:
    return {str(d.get("device")): str(d.get("uuid") or "") for d in process.listed("devices")}


def total_bytes(process: Process, device: str) -> int | None:
    """The device's memory, as the driver told it."""
    found = [d.get("total_bytes") for d in process.listed("devices") if d.get("device") == device]
    return int(found[0]) if found and found[0] else None


def _limit(trace: Trace, oom: Oom) -> int | None:
    """What the process might reserve: set_per_process_memory_fraction, or the setting."""
    total = total_bytes(oom.process, oom.device)
    if total is None:
        return None
    fraction: float | None = None
    conf = str(allocator_settings(oom.process).get("conf") or "").replace(" ", "")
    for word in conf.split(","):
        name, _, value = word.partition(":")
        if name == "per_process_memory_fraction":
            fraction = _number(value)
    for group in trace.datasets["marks"].row_groups(oom.process.key):
        if not may_hold(group, "kind", "memory_fraction"):
            continue
        table = group.read(["seq", "device", "kind", "text"])
        chosen = equals(table, "kind", "memory_fraction") & equals(table, "device", oom.device)
        chosen &= integers(table, "seq") <= oom.moment.seq
        for row in table.filter(pa.array(chosen)).to_pylist():
            fraction = _number(_json(row["text"]).get("fraction"))
    return None if fraction is None or fraction >= 1 else int(fraction * total)


def _json(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _number(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None


def _step_start(trace: Trace, key: str, oom: Oom) -> int | None:
    """Where the step began that the thread was in, or had last begun."""
    best: int | None = None
    for group in trace.datasets["steps"].row_groups(key):
        table = group.read(["start_seq"])
        starts = integers(table, "start_seq", missing=-1)
        starts = starts[(starts >= 0) & (starts <= oom.moment.seq)]
        if len(starts):
            best = max(best or 0, int(starts.max()))
    return best
