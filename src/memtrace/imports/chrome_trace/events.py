"""What of a Chrome trace's events is about memory, as columns: a process at a time.

Calls: of operators, Python functions, modules (all three have a begin and an end), and blocks that
the program named. Of a call only what it is called, when and where it was is kept.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from memtrace.errors import MemtraceError

OPERATOR, PYTHON, MODULE, BLOCK = range(4)
MEMORY = "[memory]"
_MODULE_PREFIX = "nn.Module: "
_KINDS = {
    "cpu_op": OPERATOR, "Operator": OPERATOR, "operator": OPERATOR,
    "python_function": PYTHON, "user_annotation": BLOCK,
}  # fmt: skip
_BUILTIN = "<built-in"
_CPU, _CUDA = 0, 1  # of c10::DeviceType
_MOST_NS = 1 << 62
_MOST_BYTES = 1 << 48
_MOST_DEVICES = 254
NOT_TOLD = -1


@dataclass
class Calls:
    """Columns of calls, in the order of the file.

    `thread`: place in ProcessEvents.threads; `name`: place in Names. `sequence_number` and
    `forward_thread` (the profiler's number) are autograd's, NOT_TOLD where it has none.
    """

    kind: array[int] = field(default_factory=lambda: array("B"))
    thread: array[int] = field(default_factory=lambda: array("I"))
    name: array[int] = field(default_factory=lambda: array("I"))
    start_ns: array[int] = field(default_factory=lambda: array("q"))
    end_ns: array[int] = field(default_factory=lambda: array("q"))
    sequence_number: array[int] = field(default_factory=lambda: array("q"))
    forward_thread: array[int] = field(default_factory=lambda: array("q"))


@dataclass
class Changes:
    """Columns of memory events, in the order of the file.

    `device`: 0 is the CPU, 1 + i is cuda:i. `size_bytes` is below 0 of a free. The totals are
    torch's after the event, NOT_TOLD by old versions.
    """

    thread: array[int] = field(default_factory=lambda: array("I"))
    time_ns: array[int] = field(default_factory=lambda: array("q"))
    device: array[int] = field(default_factory=lambda: array("B"))
    address: array[int] = field(default_factory=lambda: array("Q"))
    size_bytes: array[int] = field(default_factory=lambda: array("q"))
    total_bytes: array[int] = field(default_factory=lambda: array("q"))
    reserved_bytes: array[int] = field(default_factory=lambda: array("q"))


@dataclass
class ProcessEvents:
    """One process of the file.

    Attributes:
        pid: as the file has it: a number, or a name.
        threads: as the file has them, in the order they come.
        flow_starts, flow_ends: of arrows from a forward call to the node of autograd that it made:
            by id, the thread and the time of the call, and of the node.
        other_devices: memory events of devices that are neither the CPU nor CUDA's.
    """

    pid: Any
    name: str = ""
    calls: Calls = field(default_factory=Calls)
    changes: Changes = field(default_factory=Changes)
    threads: dict[Any, int] = field(default_factory=dict)
    flow_starts: dict[Any, tuple[int, int]] = field(default_factory=dict)
    flow_ends: dict[Any, tuple[int, int]] = field(default_factory=dict)
    other_devices: int = 0

    def thread(self, tid: Any) -> int:
        """The place of a thread."""
        return self.threads.setdefault(_plain(tid), len(self.threads))


class Names:
    """The distinct names of a file."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._places: dict[str, int] = {}

    def place(self, text: str) -> int:
        """The place of a name."""
        place = self._places.setdefault(text, len(self.texts))
        if place == len(self.texts):
            self.texts.append(text)
        return place


def read_events(events: Iterable[Any], names: Names) -> list[ProcessEvents]:
    """Processes that have memory events, in the order they come.

    Raises:
        MemtraceError: a memory event lacks what makes it one.
    """
    processes: dict[Any, ProcessEvents] = {}
    for number, event in enumerate(events):
        if not isinstance(event, dict):
            raise MemtraceError(f"event {number:,} is no object")
        name, phase = event.get("name"), event.get("ph")
        if not isinstance(name, str) or phase not in ("X", "i", "I", "s", "f", "M"):
            continue
        pid = _plain(event.get("pid"))
        process = processes.get(pid)
        if process is None:
            process = processes[pid] = ProcessEvents(pid)
        if name == MEMORY:
            _add_change(process, event, number)
        elif phase == "X":
            _add_call(process, event, name, names)
        elif phase in "sf" and event.get("cat") == "fwdbwd":
            _add_flow(process, event)
        elif phase == "M" and name == "process_name":
            process.name = str(_args(event).get("name") or "")
    return [process for process in processes.values() if len(process.changes.time_ns)]


def _add_change(process: ProcessEvents, event: dict[str, Any], number: int) -> None:
    args = _args(event)
    kind = _integer(args.get("Device Type"), 0, _MOST_DEVICES)
    index = _integer(args.get("Device Id", NOT_TOLD), NOT_TOLD, _MOST_DEVICES)
    address = _integer(args.get("Addr"), 1, _MOST_NS)
    size = _integer(args.get("Bytes"), -_MOST_BYTES, _MOST_BYTES)
    time_ns = _nanoseconds(event.get("ts"))
    if kind is None or index is None or address is None or size is None or time_ns is None:
        raise MemtraceError(
            f"event {number:,} is a memory event without a possible time, Addr, Bytes and device"
        )
    if kind not in (_CPU, _CUDA) or size == 0:
        process.other_devices += kind not in (_CPU, _CUDA)
        return
    totals = [
        NOT_TOLD if (total := _integer(args.get(key), 0, _MOST_BYTES)) is None else total
        for key in ("Total Allocated", "Total Reserved")
    ]
    changes = process.changes
    changes.thread.append(process.thread(event.get("tid")))
    changes.time_ns.append(time_ns)
    changes.device.append(0 if kind == _CPU else 1 + max(index, 0))
    changes.address.append(address)
    changes.size_bytes.append(size)
    changes.total_bytes.append(totals[0])
    changes.reserved_bytes.append(totals[1])


def _add_call(process: ProcessEvents, event: dict[str, Any], name: str, names: Names) -> None:
    kind = _KINDS.get(str(event.get("cat")))
    start, lasted = _nanoseconds(event.get("ts")), _nanoseconds(event.get("dur"))
    if kind is None or start is None or lasted is None:
        return
    if kind == PYTHON and name.startswith(_BUILTIN):
        return  # C code, which has no line
    if kind == PYTHON and name.startswith(_MODULE_PREFIX):
        kind, name = MODULE, name.removeprefix(_MODULE_PREFIX)
    args = _args(event)
    sequence = _integer(args.get("Sequence number"), 0, _MOST_NS)
    forward = _integer(args.get("Fwd thread id"), 1, _MOST_NS)
    calls = process.calls
    calls.kind.append(kind)
    calls.thread.append(process.thread(event.get("tid")))
    calls.name.append(names.place(name))
    calls.start_ns.append(start)
    calls.end_ns.append(start + max(lasted, 1))
    calls.sequence_number.append(NOT_TOLD if sequence is None else sequence)
    calls.forward_thread.append(NOT_TOLD if forward is None else forward)


def _add_flow(process: ProcessEvents, event: dict[str, Any]) -> None:
    time_ns = _nanoseconds(event.get("ts"))
    if time_ns is not None:
        ends = process.flow_starts if event["ph"] == "s" else process.flow_ends
        ends[_plain(event.get("id"))] = (process.thread(event.get("tid")), time_ns)


def _args(event: dict[str, Any]) -> dict[str, Any]:
    args = event.get("args")
    return args if isinstance(args, dict) else {}


def _plain(value: Any) -> Any:
    """What can be looked up: a pid, tid or id."""
    return value if isinstance(value, (int, str)) else str(value)


def _integer(value: Any, least: int, most: int) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        return None
    return value


def _nanoseconds(value: Any) -> int | None:
    """Of a time in microseconds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if not 0 <= value < _MOST_NS / 1000:  # nor NaN
        return None
    return min(round(value * 1000), _MOST_NS)
