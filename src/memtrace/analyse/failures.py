"""The requests for memory that failed: found by the footers, and who made them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from memtrace.analyse.counters import MOMENT_COLUMNS, Moment, equals, integers, may_hold
from memtrace.analyse.layout import DEFAULT_POOL
from memtrace.analyse.owners import AskedBy
from memtrace.analyse.stack import Frame, stacks_by_id
from memtrace.analyse.target import check_device, find_process
from memtrace.trace import Process, Trace
from memtrace.trace_json import parsed_object


@dataclass(frozen=True)
class Oom(AskedBy):
    """A request that failed.

    Attributes:
        asked_bytes: CUDA: as the allocator rounded it; CPU: as it was asked for.
        device_free_bytes: what the device had free then, for all processes; of the CPU the memory
            that the host had available. None: not known.
        stack: the forward's where the backward ran none of Python's code.
        allocated_bytes, reserved_bytes: the device's totals then.
        went_on: something was allocated on the device afterwards: the program caught it.
    """

    process: Process
    moment: Moment
    asked_bytes: int
    device_free_bytes: int | None
    stream: int
    pool: str
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
class Failure:
    """An event "oom": its place, and its own columns."""

    process: Process
    moment: Moment
    row: dict[str, Any]


_OWN_COLUMNS = ("size_bytes", "stream", "pool", "device_free_bytes")


def find_failures(
    trace: Trace, *, device: str | None = None, process: str | int | None = None
) -> list[Failure]:
    """Every request that failed, in the order of time, process by process."""
    check_device(trace, device)
    processes = trace.process_list if process is None else [find_process(trace, process)]
    return [failure for one in processes for failure in _failures(trace, one, device)]


def list_ooms(
    trace: Trace, *, device: str | None = None, process: str | int | None = None
) -> list[Oom]:
    """The same, with who made each."""
    return describe(trace, find_failures(trace, device=device, process=process))


def describe(trace: Trace, failures: Sequence[Failure]) -> list[Oom]:
    """Who made each of these requests."""
    by_process: dict[str, list[Failure]] = {}
    for failure in failures:
        by_process.setdefault(failure.process.key, []).append(failure)
    return [
        oom for key, found in by_process.items() for oom in _Askers(trace, key, found).ooms(found)
    ]


def _failures(trace: Trace, process: Process, device: str | None) -> Iterator[Failure]:
    for group in trace.datasets["events"].row_groups(process.key):
        # Only an OOM has free bytes of the device: the footers say where to look.
        free = group.bounds("device_free_bytes")
        if (free is not None and free.nulls == group.rows) or not may_hold(group, "action", "oom"):
            continue
        if device is not None and not may_hold(group, "device", device):
            continue
        table = group.read([*MOMENT_COLUMNS, *_OWN_COLUMNS])
        chosen = equals(table, "action", "oom")
        if device is not None:
            chosen &= equals(table, "device", device)
        for row in table.filter(pa.array(chosen)).to_pylist():
            own = {name: row.pop(name) for name in _OWN_COLUMNS}
            yield Failure(process, Moment(process=process.key, **row), own)


class _Askers:
    """The marks and the stacks that the failures of one process refer to, read once for all."""

    def __init__(self, trace: Trace, key: str, failures: Sequence[Failure]) -> None:
        self.asked = asked_by_seq(trace, key, {failure.moment.seq for failure in failures})
        forward = {asked.get("forward_call_id") for asked in self.asked.values()}
        self.stack_of_call = _stacks_of_calls(trace, key, forward - {None})
        stacks = {failure.moment.stack_id for failure in failures} | {*self.stack_of_call.values()}
        self.stacks = stacks_by_id(trace, key, {one for one in stacks if one is not None})
        devices = {failure.moment.device for failure in failures}
        self.last_alloc = {device: _last_allocation(trace, key, device) for device in devices}

    def ooms(self, failures: Iterable[Failure]) -> Iterator[Oom]:
        return (self.oom(failure) for failure in failures)

    def oom(self, failure: Failure) -> Oom:
        moment, row = failure.moment, failure.row
        asked = self.asked.get(moment.seq, {})
        forward_stack = self.stack_of_call.get(asked.get("forward_call_id"))
        return Oom(
            process=failure.process,
            moment=moment,
            asked_bytes=row["size_bytes"] or 0,
            # Of the CPU, 0 is "not known".
            device_free_bytes=row["device_free_bytes"] or (None if moment.device == "cpu" else 0),
            stream=row["stream"] or 0,
            pool=row["pool"] or DEFAULT_POOL,
            stack=self.frames(moment.stack_id) or self.frames(forward_stack),
            went_on=self.last_alloc[moment.device] > moment.seq,
            **{name: asked.get(name) for name in _TOLD},
        )

    def frames(self, stack_id: int | None) -> tuple[Frame, ...]:
        return () if stack_id is None else self.stacks.get(stack_id, ())


#: What a mark of kind "oom", at the failure's own seq, says of who asked (JSON).
_TOLD = ("operator", "top_operator", "forward_operator", "module", "module_class", "source")


def asked_by_seq(trace: Trace, key: str, seqs: Collection[int]) -> dict[int, dict[str, Any]]:
    """What the marks of these failures say of who asked."""
    found: dict[int, dict[str, Any]] = {}
    for group in trace.datasets["marks"].row_groups(key):
        if not may_hold(group, "kind", "oom"):
            continue
        table = group.read(["seq", "kind", "text"])
        for row in table.filter(pa.array(equals(table, "kind", "oom"))).to_pylist():
            if row["seq"] in seqs:
                found[row["seq"]] = parsed_object(row["text"])
    return found


def _stacks_of_calls(trace: Trace, key: str, ids: set[Any]) -> dict[Any, int | None]:
    wanted = np.array(sorted(ids), np.int64)
    found: dict[Any, int | None] = {}
    for group in trace.datasets["operators"].row_groups(key) if ids else ():
        bounds = group.bounds("call_id")
        if bounds is not None and bounds.low is not None:
            low, high = np.searchsorted(wanted, [bounds.low, bounds.high + 1])
            if low == high:
                continue
        here = np.isin(integers(group.read(["call_id"]), "call_id", missing=-1), wanted)
        if here.any():
            rows = group.read(["call_id", "stack_id"]).filter(pa.array(here)).to_pylist()
            found |= {row["call_id"]: row["stack_id"] for row in rows}
    return found


def _last_allocation(trace: Trace, key: str, device: str) -> int:
    """Its place; -1: none."""
    for group in reversed(list(trace.datasets["events"].row_groups(key))):
        if not may_hold(group, "device", device) or not may_hold(group, "action", "alloc"):
            continue
        table = group.read(["seq", "device", "action"])
        chosen = equals(table, "device", device) & equals(table, "action", "alloc")
        if chosen.any():
            return int(integers(table, "seq")[chosen].max())
    return -1
