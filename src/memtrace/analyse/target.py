"""Which device, and which of the processes that used it, a question is about."""

from __future__ import annotations

from dataclasses import dataclass

from memtrace.analyse.counters import Highest, highest
from memtrace.errors import MemtraceError
from memtrace.trace import Process, Trace

_MOST_DEVICE_BYTES = 1 << 50  # what a trace of anyone's making may say that a device has


@dataclass(frozen=True)
class Target:
    """A device as one process used it. `peaks`: every process that used it, largest peak first."""

    device: str
    process: Process
    highest: Highest
    peaks: tuple[tuple[Process, Highest], ...]


def choose_target(
    trace: Trace, *, device: str | None, process: str | int | None, of: str
) -> Target:
    """The device and process asked for; by default the largest peak on an accelerator."""
    if not trace.devices:
        raise MemtraceError(why_empty(trace))
    check_device(trace, device)
    whose = None if process is None else find_process(trace, process)
    names = trace.devices if device is None else [device]
    peaks = [peak for name in names for peak in _peaks(trace, name, of)]
    candidates = [peak for peak in peaks if whose is None or peak[0].key == whose.key]
    if not candidates:
        by = "" if whose is None else f" by {whose}"
        raise MemtraceError(f"no {of} bytes were recorded of {device or 'any device'}{by}")
    best = min(candidates, key=lambda peak: (peak[1].device == "cpu", -peak[1].total_bytes))
    same_device = tuple(peak for peak in peaks if peak[1].device == best[1].device)
    return Target(best[1].device, *best, same_device)


def check_device(trace: Trace, device: str | None) -> None:
    """Refuses a device that the trace has no events of, saying why when it is known.

    Raises:
        MemtraceError: names what the trace has.
    """
    if device is None or device in trace.devices:
        return
    if not trace.devices:
        raise MemtraceError(why_empty(trace))
    reasons = [] if device == "cpu" else _hook_errors(trace)
    why = f" ({reasons[0]})" if reasons else ""
    raise MemtraceError(
        f"no memory of {device} in this trace; it has {', '.join(trace.devices)}{why}"
    )


def _hook_errors(trace: Trace) -> list[str]:
    rows = [process.row for process in trace.process_list]
    return [row["hook_error"] for row in rows if row.get("hook_error")]


def _peaks(trace: Trace, device: str, of: str) -> tuple[tuple[Process, Highest], ...]:
    found = []
    for process in trace.process_list:
        if device in trace.devices_by_process[process.key]:
            peak = highest(trace, process=process.key, device=device, of=of)
            if peak is not None:
                found.append((process, peak))
    return tuple(sorted(found, key=lambda item: -item[1].total_bytes))


def find_process(trace: Trace, wanted: str | int) -> Process:
    """The process with this key or pid."""
    for process in trace.process_list:
        if str(wanted) in (process.key, str(process.pid)):
            return process
    known = ", ".join(str(process.pid) for process in trace.process_list)
    raise MemtraceError(f"no process {wanted} in this trace; it has {known}")


def total_bytes(process: Process, device: str) -> int | None:
    """The device's memory, as the driver told it."""
    found = [d.get("total_bytes") for d in process.listed("devices") if d.get("device") == device]
    known = found and type(found[0]) is int and 0 < found[0] <= _MOST_DEVICE_BYTES
    return found[0] if known else None


def why_empty(trace: Trace) -> str:
    """One line for a trace without a single event."""
    rows = [process.row for process in trace.process_list]
    errors = _hook_errors(trace)
    if errors:
        return f"the trace has no events: {errors[0]}"
    lost = sum(row["lost_total"] or 0 for row in rows)
    if lost:
        return f"the trace has no events: all {lost:,} were lost (was the disk full?)"
    if rows and not any(row["torch_version"] for row in rows):
        return "the trace has no events: the program never imported torch"
    nothing = "the trace has no events: the program imported torch but allocated nothing"
    if any(row.get("cpu_on") is False for row in rows):
        return f"{nothing} on a GPU, and CPU tensors were not recorded (--no-cpu)"
    return f"{nothing} while recorded"
