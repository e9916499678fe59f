"""Chrome's trace event format, JSON: for chrome://tracing, ui.perfetto.dev and whatever reads it.

Counters of each device are exact where it has no more than MOST_BINS events; else of each bin the
largest value and the last. Stages and steps are async events, which may overlap; operator calls
are complete events of their threads, allocations and frees `[memory]` events, as torch.profiler
writes them.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

import pyarrow as pa

from memtrace.analyse.counters import Int64s
from memtrace.analyse.curve import EVERYTHING, read_curves
from memtrace.analyse.step_names import step_name
from memtrace.dataset import RowGroup
from memtrace.export.thinned import Whole
from memtrace.outputs import Selection
from memtrace.trace import Process, Trace

#: With more calls than these, chrome://tracing may not open the file.
MOST_CALLS = 1_000_000
MOST_BINS = 100_000
_CHANGE_COLUMNS = [
    "time_ns", "device", "action", "address", "block_bytes", "thread_id", "allocated_bytes",
    "reserved_bytes", "allocation_id",
]  # fmt: skip
#: What an event alone says of the bytes allocated.
_SIGNS = {"alloc": 1, "preexisting": 1, "free_requested": -1}
_CPU_TYPE, _CUDA_TYPE = 0, 1  # of c10::DeviceType
_CALL_COLUMNS = [
    "name", "scope", "thread_id", "start_time_ns", "end_time_ns", "module", "allocated_bytes",
    "freed_bytes",
]  # fmt: skip
# A block of record_function, as torch.profiler has it.
_CATEGORIES = {"user_scope": "user_annotation"}
_STAGE_COLUMNS = ["stage_id", "name", "kind", "start_time_ns", "end_time_ns"]
_STEP_COLUMNS = [
    "step", "name", "kind", "root_module", "start_time_ns", "end_time_ns", "batch_size",
    "input_shapes",
]  # fmt: skip


def write_chrome(trace: Trace, selection: Selection, out: IO[bytes]) -> Sequence[str]:
    """One event a line, as they are read.

    Returns:
        What a person should know of the file, a line each.
    """
    out.write(b'{"displayTimeUnit":"ns","traceEvents":[')
    separator, calls = b"\n", 0
    for event in _events(trace, selection):
        calls += event["ph"] in "Xi"
        out.write(separator + json.dumps(event, separators=(",", ":")).encode())
        separator = b",\n"
    out.write(b"\n]}\n")
    if calls > MOST_CALLS:
        many = f"{calls:,} calls and memory events"
        return [f"{many}: Chrome may not open it; give --window A,B for a part"]
    return []


def _events(trace: Trace, selection: Selection) -> Iterator[dict[str, Any]]:
    window = selection.window_ns or EVERYTHING
    first = min((p.row["clock_origin_ns"] or 0 for p in trace.process_list), default=0)
    for process in trace.process_list:
        origin_ns = (process.row["clock_origin_ns"] or 0) - first
        yield _named("process_name", process, 0, _title(process))
        for event in _of_process(trace, process, selection.device, window):
            event["pid"] = process.pid
            event["ts"] = (event["ts"] + origin_ns) / 1000
            yield event


def _title(process: Process) -> str:
    argv = process.argv
    name = shlex.join(argv) if argv else f"pid {process.pid}"
    return name if process.rank is None else f"rank {process.rank}: {name}"


def _named(what: str, process: Process, thread_id: int, name: str) -> dict[str, Any]:
    return {
        "ph": "M", "name": what, "pid": process.pid, "tid": thread_id, "ts": 0,
        "args": {"name": name},
    }  # fmt: skip


def _of_process(
    trace: Trace, process: Process, device: str | None, window: tuple[int, int]
) -> Iterator[dict[str, Any]]:
    yield from _counters(trace, process, device, window)
    end_ns = process.row["end_time_ns"] or 0
    for row in _rows(trace, process, "stages", _STAGE_COLUMNS):
        told = {"kind": row["kind"]}
        yield from _span("stage", f"s{row['stage_id']}", row["name"], row, end_ns, window, told)
    for row in _rows(trace, process, "steps", _STEP_COLUMNS):
        told = {name: row[name] for name in ("batch_size", "input_shapes") if row[name] is not None}
        name = " ".join(word for word in (row["kind"], row["root_module"]) if word)
        number = row["step"]
        name = step_name(row) if row["name"] else f"{name} {number}"
        yield from _span("step", f"c{number}", name, row, end_ns, window, told)
    yield from _calls(trace, process, window)
    yield from _changes(trace, process, device, window)


def _counters(
    trace: Trace, process: Process, device: str | None, window: tuple[int, int]
) -> Iterator[dict[str, Any]]:
    devices = [name for name in trace.devices_by_process[process.key] if device in (None, name)]
    curves = read_curves(trace, process.key, devices, most_bins=MOST_BINS, window_ns=window)
    for name, curve in curves.items():
        yield from _values(name, "allocated", curve.most_ns, curve.most_bytes)
        # Where a bin is one event, its most is its last.
        later = curve.last_seq > curve.most_seq
        yield from _values(name, "allocated", curve.last_ns[later], curve.last_bytes[later])
        if curve.reserved_most_bytes.any():
            yield from _values(name, "reserved", curve.begin_ns, curve.reserved_most_bytes)
            later = curve.last_ns > curve.begin_ns
            yield from _values(
                name, "reserved", curve.last_ns[later], curve.reserved_last_bytes[later]
            )


def _values(device: str, metric: str, times_ns: Int64s, values: Int64s) -> Iterator[dict[str, Any]]:
    for time_ns, value in zip(times_ns.tolist(), values.tolist(), strict=True):
        yield _counter(device, metric, time_ns, value)


def _counter(device: str, metric: str, time_ns: int, value: int) -> dict[str, Any]:
    return {
        "ph": "C", "name": f"{device} {metric}", "ts": time_ns, "tid": 0, "args": {"bytes": value},
    }  # fmt: skip


def _span(
    category: str, identity: str, name: str, row: dict[str, Any], end_ns: int,
    window: tuple[int, int], told: dict[str, Any],
) -> Iterator[dict[str, Any]]:  # fmt: skip
    start = row["start_time_ns"]
    end = row["end_time_ns"] if row["end_time_ns"] is not None else max(end_ns, start)
    if start > window[1] or end < window[0]:
        return
    common = {"cat": category, "id": identity, "name": name, "tid": 0}
    yield {"ph": "b", "ts": max(start, window[0]), **common, "args": told}
    yield {"ph": "e", "ts": min(end, window[1]), **common}


def _calls(trace: Trace, process: Process, window: tuple[int, int]) -> Iterator[dict[str, Any]]:
    threads: set[int] = set()
    for row in _rows(trace, process, "operators", _CALL_COLUMNS):
        start, end = row["start_time_ns"], row["end_time_ns"]
        if start is None or end is None or start > window[1] or end < window[0]:
            continue
        thread_id = row["thread_id"] or 0
        if thread_id not in threads:
            threads.add(thread_id)
            yield _named("thread_name", process, thread_id, f"operators of thread {thread_id}")
        told = ("module", "allocated_bytes", "freed_bytes")
        yield {
            "ph": "X", "cat": _CATEGORIES.get(row["scope"], "operator"),
            "name": row["name"] or "?", "tid": thread_id,
            "ts": start, "dur": (end - start) / 1000,
            "args": {name: row[name] for name in told if row[name] is not None},
        }  # fmt: skip


def _changes(
    trace: Trace, process: Process, only: str | None, window: tuple[int, int]
) -> Iterator[dict[str, Any]]:
    """What changed the bytes allocated; what was there before the first change is none."""
    totals: dict[str, int] = {}
    changed: set[str] = set()
    thinned = process.dropped is not None
    for row in _whole_events(trace, process):
        device, total = row["device"], row["allocated_bytes"] or 0
        change = total - totals.get(device, 0)
        totals[device] = total
        if thinned:  # the event before it may not be there
            change = _SIGNS.get(row["action"], 0) * (row["block_bytes"] or 0)
        if row["action"] == "preexisting" and device not in changed:
            continue
        if change == 0 or row["address"] is None or only not in (None, device):
            continue
        changed.add(device)
        time_ns = row["time_ns"]
        if not window[0] <= time_ns <= window[1]:
            continue
        kind, _, index = device.partition(":")
        yield {
            "ph": "i", "s": "t", "cat": "cpu_instant_event", "name": "[memory]", "ts": time_ns,
            "tid": row["thread_id"] or 0,
            "args": {
                "Addr": row["address"], "Bytes": row["block_bytes"] if change > 0 else change,
                "Device Type": _CPU_TYPE if kind == "cpu" else _CUDA_TYPE,
                "Device Id": int(index) if index.isdigit() else -1,
                "Total Allocated": total, "Total Reserved": row["reserved_bytes"] or 0,
            },
        }  # fmt: skip


def _whole_events(trace: Trace, process: Process) -> Iterator[dict[str, Any]]:
    whole = Whole(trace, process)
    for group in trace.datasets["events"].row_groups(process.key):
        table = group.read(_CHANGE_COLUMNS)
        yield from table.filter(pa.array(whole.of(table))).to_pylist()


def _rows(
    trace: Trace, process: Process, dataset: str, columns: list[str]
) -> Iterable[dict[str, Any]]:
    groups: Iterator[RowGroup] = trace.datasets[dataset].row_groups(process.key)
    for group in groups:
        yield from group.read(columns).to_pylist()
