"""Out of memory: what was asked for and by whom, what was in the way, what would have made it fit.

Torch gives up only after it has given all segments without a live block back to the device and
tried again. So at an OOM the memory that is reserved but not used lies in pieces that are too
small, in the other size class, in another stream's memory, or in a private pool.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from memtrace.analyse.allocator_settings import allocator_settings
from memtrace.analyse.breakdown import GROUP, Breakdown, break_down, columns_for, not_recorded
from memtrace.analyse.counters import equals, integers, last_moment, may_hold
from memtrace.analyse.failures import Oom, describe, find_failures
from memtrace.analyse.fragmentation import Fragmentation, fragmentation_at, fragmentation_of
from memtrace.analyse.layout import layout_at
from memtrace.analyse.live_set import live_allocations
from memtrace.analyse.owners import owner_columns, stacks_of_groups
from memtrace.analyse.request import Fit, Request, find_fits
from memtrace.analyse.stack import Frame
from memtrace.analyse.step_names import StepNames, is_outermost
from memtrace.analyse.target import total_bytes
from memtrace.errors import MemtraceError
from memtrace.trace import Process, Trace
from memtrace.trace_json import parsed_object


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
        held: who held what was allocated; `categories`: the same by category; `stacks`: frames by
            the keys of its rows, where grouped by stack.
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
    stacks: dict[str, tuple[Frame, ...]]
    fits: tuple[Fit, ...]
    fragmentation: Fragmentation | None

    @property
    def unusable_bytes(self) -> int:
        return sum(self.unusable.values())


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
    found = find_failures(trace, device=device, process=process)
    if not found:
        return None
    number = len(found) if number is None else number
    (oom,) = describe(trace, [found[_place(number, len(found))]])
    return _examine(trace, oom, number, len(found), by, top)


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
    found = find_failures(trace, device=device, process=process)
    failure = found[_place(number, len(found))]
    if failure.moment.device == "cpu":
        raise MemtraceError(f"out-of-memory {number:,} is the CPU's, which has no segments")
    return fragmentation_at(trace, failure.moment, failure.process, why="oom", by=by)


def _place(number: int, ooms: int) -> int:
    if not 1 <= number <= ooms:
        failed = f"{ooms:,} allocations failed" if ooms != 1 else "1 allocation failed"
        raise MemtraceError(f"no out-of-memory {number:,} in this trace: {failed}")
    return number - 1


# ---- what was in the way -------------------------------------------------------------------------


def _examine(
    trace: Trace, oom: Oom, number: int, ooms: int, by: str, top: int | None
) -> PostMortem:
    key, device = oom.process.key, oom.device
    columns = [*columns_for(by), *columns_for("category"), "alloc_seq"]
    live = live_allocations(trace, oom.moment, of="allocated", columns=columns)

    told = StepNames(trace, key).tell(live, [by])

    def held(column: str, most: int | None) -> Breakdown:
        return break_down(
            told,
            by=column,
            total_bytes=oom.moment.allocated_bytes,
            top=most,
            nameless=not_recorded(column, oom.process.row),
        )

    of_groups = held(by, top)
    keys = [row.key for row in of_groups.rows if row.kind == GROUP]
    facts: dict[str, Any] = {
        "oom": oom, "number": number, "ooms": ooms, "held": of_groups,
        "categories": held("category", None),
        "stacks": stacks_of_groups(trace, key, by, keys),
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


def _limit(trace: Trace, oom: Oom) -> int | None:
    """What the process might reserve: set_per_process_memory_fraction, or the setting."""
    total = total_bytes(oom.process, oom.device)
    if total is None:
        return None
    fraction: float | None = None
    conf = str(allocator_settings(oom.process).get("conf", "")).replace(" ", "")
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
            fraction = _number(parsed_object(row["text"]).get("fraction"))
    return int(fraction * total) if fraction is not None and 0 <= fraction < 1 else None


def _number(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None


def _step_start(trace: Trace, key: str, oom: Oom) -> int | None:
    """Where the last step began, of any thread: autograd has threads of its own."""
    best: int | None = None
    for group in trace.datasets["steps"].row_groups(key):
        table = group.read(["start_seq", "parent_step"])
        starts = integers(table, "start_seq", missing=-1)
        starts = starts[is_outermost(table) & (starts >= 0) & (starts <= oom.moment.seq)]
        if len(starts):
            best = max(best or 0, int(starts.max()))
    return best
