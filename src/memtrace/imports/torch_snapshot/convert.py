"""A snapshot as the spool of a recording: baseline, events, the counters at its end.

Whether the events lead from the baseline to the end is checked by the finaliser: the bytes of the
snapshot's segments are written as torch's counters, and compared with what the events add up to.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from memtrace.imports.formats import unpacked_bytes
from memtrace.imports.spool import (
    CPU,
    EVENT,
    MARK,
    MEMORY_HOST,
    PREEXISTING,
    STAGE_BEGIN,
    STAGE_END,
    Events,
    Spool,
)
from memtrace.imports.torch_snapshot.baseline import (
    Baseline,
    Range,
    Ranges,
    ranges_at_end,
    work_out_baseline,
)
from memtrace.imports.torch_snapshot.forms import (
    ALLOC,
    FREE_REQUESTED,
    OOM,
    SEGMENT_ALLOC,
    SEGMENT_MAP,
    Device,
    Snapshot,
    read_forms,
)
from memtrace.imports.torch_snapshot.rounding import Rounding
from memtrace.imports.torch_snapshot.unpickle import read_plain

_LEAD_NS = 2_000  # from the beginning to the first event: settings and baseline come before it
_SMALL_PAGE_BYTES = 2 << 20
_MOST_SMALL_PAGES = 1 << 16
_BLOCK_UNIT = 512  # of a preexisting block's bytes
_CPU_ACTIONS = (ALLOC, FREE_REQUESTED, OOM)
_Uint32s = npt.NDArray[np.uint32]


def convert(path: Path, spools: Path) -> list[str]:
    """Reads a snapshot file and writes the spool of it.

    Returns:
        What the file does not tell.

    Raises:
        MemtraceError: the file is no snapshot, or a damaged one.
    """
    snapshot = read_forms(read_plain(path), most_items=unpacked_bytes(path))
    spool = Spool(spools / "process=snapshot-0-imported")
    spool.process(argv=[path.name.encode(errors="backslashreplace").decode()])
    return [_Conversion(snapshot, spool).run()]


class _Conversion:
    def __init__(self, snapshot: Snapshot, spool: Spool) -> None:
        self._snapshot = snapshot
        self._spool = spool
        times = [time for device in snapshot.devices for time in _ends(device)]
        self._first_us = min(times, default=0) if snapshot.timed else 0
        self._unsure = 0  # blocks from before the first event whose size is not known
        self._stack_ids: _Uint32s
        self._op_names: _Uint32s
        self._top_names: _Uint32s

    def run(self) -> str:
        """Returns what the snapshot lacks."""
        snapshot, spool = self._snapshot, self._spool
        self._write_stacks()
        expandable = _uses_expandable(snapshot)
        spool.note(MARK, self._ticks(None), "settings", text=_settings(snapshot, expandable))
        rounding = Rounding.of(snapshot.settings, expandable=expandable)
        last = self._ticks(None)
        for device in snapshot.devices:
            cpu = device.name == "cpu"
            events = self._cpu_events(device) if cpu else self._cuda_events(device, rounding)
            spool.events([events])
            if len(events):
                last = max(last, int(events["ticks"].max()))
        lacks = _lacks(snapshot, self._unsure)
        spool.process(**_facts(snapshot, lacks))
        self._write_annotations(last)
        for device in snapshot.devices:
            if device.name != "cpu" and device.segments:
                self._write_counters(device, last + 1)
        spool.close(
            start_ticks=1,
            end_ticks=last + 1,
            unix_ns=max(self._first_us * 1000 - _LEAD_NS, 0) if snapshot.timed else 0,
        )
        return lacks

    def _ticks(self, time_us: int | None) -> int:
        """Ticks from 1 on; None: before the first event."""
        return 1 if time_us is None else 1 + _LEAD_NS + (time_us - self._first_us) * 1000

    def _write_stacks(self) -> None:
        spool, ids = self._spool, {}
        distinct = self._snapshot.stacks.distinct
        numbers = np.zeros((3, len(distinct)), np.uint32)
        for place, stack in enumerate(distinct):
            if stack.frames not in ids:
                ids[stack.frames] = spool.stack(stack)
            numbers[:, place] = (
                ids[stack.frames],
                spool.name(stack.operator),
                spool.name(stack.top_operator),
            )
        self._stack_ids, self._op_names, self._top_names = numbers

    # ---- events -------------------------------------------------------------------------------

    def _cuda_events(self, device: Device, rounding: Rounding) -> Events:
        code = 1 + int(device.name.removeprefix("cuda:"))
        baseline = work_out_baseline(device, rounding)
        self._unsure += baseline.unsure
        before = self._baseline_events(baseline)
        events = np.zeros(len(before) + len(device.actions), EVENT)
        events[: len(before)] = before
        own = events[len(before) :]
        self._fill(own, device)
        own["pool"] = self._pools(device)
        # An event "oom" has the stream in the place of the address, and free bytes in its.
        failed = own["action"] == OOM
        own["address"][failed], own["stream"][failed] = (
            own["stream"][failed],
            own["address"][failed],
        )
        events["device"] = code
        events["order"] = np.arange(1, len(events) + 1)
        return events

    def _fill(self, own: Events, device: Device) -> None:
        own["action"] = np.frombuffer(device.actions, np.uint8)
        own["address"] = np.frombuffer(device.addresses, np.uint64)
        own["size_bytes"] = np.frombuffer(device.sizes, np.uint64)
        own["stream"] = np.frombuffer(device.streams, np.uint64)
        own["ticks"] = self._event_ticks(device)
        stacks = np.frombuffer(device.stacks, np.uint32)
        own["stack"] = self._stack_ids[stacks]
        own["op_name"] = self._op_names[stacks]
        own["top_name"] = self._top_names[stacks]

    def _event_ticks(self, device: Device) -> npt.NDArray[np.int64]:
        # In torch's order, whatever the clocks of two threads say. Without times: places, in us.
        times = np.arange(len(device.actions), dtype=np.int64)
        if self._snapshot.timed and len(times):
            times = np.maximum.accumulate(np.frombuffer(device.times_us, np.int64))
            times = np.minimum(times - self._first_us, 1 << 50)
        return times * 1000 + self._ticks(self._first_us)

    def _pools(self, device: Device) -> npt.NDArray[np.uint16]:
        """The pool of each event: as it says, else of the segment that is there at the end."""
        numbers = np.zeros(len(device.actions), np.uint16)
        ranges = ranges_at_end(device)
        if any(segment.pool != (0, 0) for segment in device.segments):
            _spread(numbers, ranges, device, self._spool)
        for place, pool in device.pools.items():
            numbers[place] = self._spool.pool(pool)
        return numbers

    def _baseline_events(self, baseline: Baseline) -> Events:
        rows: list[tuple[int, ...]] = []
        for held in baseline.ranges:
            action = SEGMENT_MAP if held.expandable else SEGMENT_ALLOC
            pool, stream = self._spool.pool(held.pool), _unsigned(held.stream)
            rows += [
                (start, end - start, stream, 0, 0, pool, action) for start, end in _pages(held)
            ]
        for block in baseline.blocks:
            pool, stream = self._spool.pool(block.pool), _unsigned(block.stream)
            units = min(block.block_bytes // _BLOCK_UNIT, (1 << 32) - 1)
            place = (block.address, block.requested_bytes, stream)
            rows.append((*place, block.stack, units, pool, PREEXISTING))
            if block.freed:
                rows.append((*place, 0, 0, pool, FREE_REQUESTED))
        events = np.zeros(len(rows), EVENT)
        if rows:
            columns = [np.array(column, np.uint64) for column in zip(*rows, strict=True)]
            names = ("address", "size_bytes", "stream", "stack", "context", "pool", "action")
            for name, values in zip(names, columns, strict=True):
                events[name] = values
            stacks = columns[3].astype(np.int64)
            events["stack"] = self._stack_ids[stacks]
            events["op_name"] = self._op_names[stacks]
            events["top_name"] = self._top_names[stacks]
            events["ticks"] = self._ticks(None) + 1
        return events

    def _cpu_events(self, device: Device) -> Events:
        """Of an export of ours: allocations of the CPU, each in a segment that is itself."""
        baseline = work_out_baseline(device, Rounding())
        before = np.zeros(len(baseline.blocks), EVENT)
        for row, block in zip(before, baseline.blocks, strict=True):
            row["address"], row["size_bytes"] = block.address, block.requested_bytes
            row["stack"] = self._stack_ids[block.stack]
            row["op_name"] = self._op_names[block.stack]
            row["top_name"] = self._top_names[block.stack]
            row["ticks"], row["action"] = self._ticks(None) + 1, PREEXISTING
        own = np.zeros(len(device.actions), EVENT)
        self._fill(own, device)
        own = own[np.isin(own["action"], _CPU_ACTIONS)]
        own["stream"] = np.where(own["action"] == OOM, own["address"], 0)
        own["size_bytes"][own["action"] == FREE_REQUESTED] = 0  # known from the allocation
        own["address"][own["action"] == OOM] = 0
        events = np.concatenate([before, own])
        events["pool"] = MEMORY_HOST
        events["device"] = CPU
        return events

    # ---- notes --------------------------------------------------------------------------------

    def _write_annotations(self, last: int) -> None:
        """Ranges that torch's profiler named, as stages."""
        number = 0
        open_ranges: dict[str, list[int]] = {}
        for entry in sorted(self._snapshot.annotations, key=lambda entry: entry.time_us):
            ticks = min(max(self._ticks(entry.time_us), 1), last)
            if entry.begins:
                number += 1
                open_ranges.setdefault(entry.name, []).append(number)
                self._spool.note(STAGE_BEGIN, ticks, entry.name, value=number, text="scope")
            elif open_ranges.get(entry.name):
                begun = open_ranges[entry.name].pop()
                self._spool.note(STAGE_END, ticks, entry.name, value=begun)

    def _write_counters(self, device: Device, ticks: int) -> None:
        blocks = [block for segment in device.segments for block in segment.blocks]
        values = {
            "allocated_bytes": sum(block.size_bytes for block in blocks if block.allocated),
            "active_bytes": sum(block.size_bytes for block in blocks if block.active),
            "reserved_bytes": sum(segment.size_bytes for segment in device.segments),
            "requested_bytes": sum(block.requested_bytes for block in blocks if block.active),
        }
        for name, value in values.items():
            code = 1 + int(device.name.removeprefix("cuda:"))
            self._spool.counter(ticks, name, value, device=code, reason="end")


def _ends(device: Device) -> Iterator[int]:
    times = device.times_us
    if times:
        yield times[0]


def _spread(numbers: npt.NDArray[np.uint16], ranges: Ranges, device: Device, spool: Spool) -> None:
    addresses = np.frombuffer(device.addresses, np.uint64)
    for held in ranges.list():
        if held.pool != (0, 0):
            inside = (addresses >= held.start) & (addresses < held.end)
            numbers[inside] = spool.pool(held.pool)


def _pages(held: Range) -> Iterator[tuple[int, int]]:
    """Ranges as the allocator maps them: it tells small ones by their size."""
    step = held.end - held.start
    if held.expandable and held.small and step <= _MOST_SMALL_PAGES * _SMALL_PAGE_BYTES:
        step = _SMALL_PAGE_BYTES
    for start in range(held.start, held.end, max(step, 1)):
        yield start, min(start + step, held.end)


def _unsigned(value: int) -> int:
    return value & (1 << 64) - 1


def _uses_expandable(snapshot: Snapshot) -> bool:
    if snapshot.settings.get("expandable_segments") is True:
        return True
    return any(
        SEGMENT_MAP in device.actions or any(segment.expandable for segment in device.segments)
        for device in snapshot.devices
    )


def _settings(snapshot: Snapshot, expandable: bool) -> str:
    found = snapshot.settings
    conf, limit = found.get("PYTORCH_CUDA_ALLOC_CONF"), found.get("max_split_size")
    divisions = Rounding.of(found, expandable=expandable).divisions
    return json.dumps(
        {
            "conf": conf if isinstance(conf, str) else "",
            "expandable_segments": expandable,
            "max_split_size": limit if type(limit) is int and 0 < limit < 1 << 62 else -1,
            "roundup_power2_divisions": list(divisions),
        }
    )


def _lacks(snapshot: Snapshot, unsure: int) -> str:
    stacks, missing = snapshot.stacks.distinct, ["threads", "steps"]
    if not any(stack.operator for stack in stacks):
        missing.insert(0, "operators")
    if not any(frame.module for stack in stacks for frame in stack.frames):
        missing.insert(0, "modules")
    if len(stacks) == 1:
        missing.insert(0, "stacks")
    if not snapshot.timed:
        missing.append("times (the order of events stands for them)")
    if not any(device.actions for device in snapshot.devices):
        missing.append("events (only what was live at its end is shown)")
    told = f"a memory snapshot of torch's lacks {', '.join(missing)}"
    if unsure:
        told += f"; {unsure:,} blocks from before its first event may each be 1 MiB larger"
    skipped = sum(device.skipped for device in snapshot.devices)
    if skipped:
        told += f"; {skipped:,} events of unknown kinds were left out"
    return told


def _facts(snapshot: Snapshot, lacks: str) -> dict[str, Any]:
    from memtrace import __version__

    return {
        "start_method": "imported",
        "end_reason": "snapshot",
        "versions": {"memtrace": __version__},
        "cpu_on": any(device.name == "cpu" for device in snapshot.devices),
        "stacks_on": True,
        "torch_seen": True,
        "hook_error": lacks,
    }
