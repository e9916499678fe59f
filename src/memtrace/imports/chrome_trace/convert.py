"""A Chrome trace as spools: what happened in each process, as a recorder would have written it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from memtrace.errors import MemtraceError
from memtrace.imports.chrome_trace import lacks
from memtrace.imports.chrome_trace.events import NOT_TOLD, Names, ProcessEvents, read_events
from memtrace.imports.chrome_trace.json_stream import TraceFile
from memtrace.imports.chrome_trace.replayed import Replayed
from memtrace.imports.chrome_trace.timeline import backward_passes, happenings
from memtrace.imports.chrome_trace.totals import DeviceTotals, device_totals
from memtrace.imports.formats import opened
from memtrace.imports.spool import MARK, MEMORY_HOST, PREEXISTING, Spool

_LEAD_NS = 2_000  # from the beginning to the first event: what was there comes before it
_UNIX_NS = 1_000_000_000_000_000_000  # 2001: times beyond it are of the calendar
_MOST_PROCESSES = 10_000
_SOMEWHERE = 1  # the address of memory that has none

# The events tell of blocks alone; what the device holds for them is a total.
_SETTINGS = json.dumps({"blocks_only": True})


def convert(path: Path, spools: Path) -> list[str]:
    """Reads a Chrome trace and writes a spool of each process with memory events.

    Returns:
        What the file does not tell.

    Raises:
        MemtraceError: it is no Chrome trace, a damaged one, or has no memory events.
    """
    names = Names()
    with opened(path) as file:
        trace = TraceFile(file)
        processes = read_events(trace.events(), names)
    if not processes:
        raise MemtraceError("it has no memory events: torch.profiler needs profile_memory=True")
    if len(processes) > _MOST_PROCESSES:
        raise MemtraceError(f"it has {len(processes):,} processes with memory events")
    told: list[str] = []
    for number, process in enumerate(processes):
        key = re.sub(r"[^\w.]+", "_", f"{process.pid}")[:40]
        spool = Spool(spools / f"process=profile{number}-{key}-imported")
        told.append(_write(spool, process, names.texts, trace.header, path.name))
    return list(dict.fromkeys(told))


def _write(
    spool: Spool, process: ProcessEvents, names: list[str], header: dict[str, Any], file: str
) -> str:
    devices = device_totals(process.changes)
    told = lacks.told(process, devices)
    spool.process(**_facts(process, header, file, told))
    first_ns = min(process.changes.time_ns)
    if len(process.calls.start_ns):
        first_ns = min(first_ns, *process.calls.start_ns)
    spool.note(MARK, 1, "settings", text=_SETTINGS)
    for device in devices:
        _write_before(spool, process, device)
    replayed = Replayed(spool, process, names, origin_ns=first_ns - _LEAD_NS)
    for happening in happenings(process, devices, backward_passes(process, names)):
        replayed.take(happening)
    end = replayed.finish()
    for device in devices:
        _write_counter(spool, process, device, end)
    pid = process.pid if isinstance(process.pid, int) and 0 <= process.pid < 1 << 31 else 0
    spool.close(start_ticks=1, end_ticks=end, unix_ns=_unix_ns(header, first_ns), pid=pid)
    return told


def _write_before(spool: Spool, process: ProcessEvents, device: DeviceTotals) -> None:
    """What the device held before the first event."""
    reserved = process.changes.reserved_bytes[device.order[0]]
    if device.code and reserved != NOT_TOLD:
        spool.counter(2, "reserved_bytes", reserved, device=device.code, reason="period")
    pool = 0 if device.code else MEMORY_HOST
    blocks = dict(device.before)
    if device.before_bytes:
        blocks[_SOMEWHERE] = device.before_bytes
    for address, size in blocks.items():
        spool.event(PREEXISTING, 2, address, size, device=device.code, pool=pool)


def _write_counter(spool: Spool, process: ProcessEvents, device: DeviceTotals, end: int) -> None:
    """torch's last total, for the finaliser to compare with the sum of the events."""
    total = process.changes.total_bytes[device.order[-1]]
    if device.code and total != NOT_TOLD:
        spool.counter(end, "allocated_bytes", total, device=device.code, reason="end")


def _unix_ns(header: dict[str, Any], first_ns: int) -> int:
    base = header.get("baseTimeNanoseconds")
    if isinstance(base, int) and 0 < base < 1 << 62:
        return min(base + first_ns - _LEAD_NS, (1 << 62) - 1)
    return first_ns - _LEAD_NS if first_ns > _UNIX_NS else 0


def _facts(process: ProcessEvents, header: dict[str, Any], file: str, told: str) -> dict[str, Any]:
    from memtrace import __version__

    rank = _dict(header.get("distributedInfo"))
    host = header.get("host_name")
    return {
        "argv": [file.encode(errors="backslashreplace").decode()],
        "start_method": "imported",
        "end_reason": "profile",
        "versions": {"memtrace": __version__},
        "host": host if isinstance(host, str) else None,
        "rank": rank.get("rank"),
        "world_size": rank.get("world_size"),
        "devices": _devices(header.get("deviceProperties")),
        "cpu_on": 0 in process.changes.device,
        "operators_on": lacks.has_operators(process),
        "stacks_on": lacks.has_stacks(process),
        "torch_seen": True,
        "hook_error": told,
    }


def _devices(listed: Any) -> list[dict[str, Any]]:
    found = [_dict(device) for device in listed] if isinstance(listed, list) else []
    return [
        {
            "device": f"cuda:{device['id']}",
            "name": str(device.get("name", "")),
            "total_bytes": device.get("totalGlobalMem"),
        }
        for device in found
        if isinstance(device.get("id"), int)
    ]


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
