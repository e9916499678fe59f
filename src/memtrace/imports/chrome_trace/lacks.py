"""What a Chrome trace does not tell of a process, in one line."""

from __future__ import annotations

from memtrace.imports.chrome_trace.events import MODULE, OPERATOR, PYTHON, ProcessEvents
from memtrace.imports.chrome_trace.totals import DeviceTotals


def has_operators(process: ProcessEvents) -> bool:
    """Whether it has calls of operators (activities=[CPU])."""
    return OPERATOR in process.calls.kind


def has_stacks(process: ProcessEvents) -> bool:
    """Whether it has calls of Python functions (with_stack=True)."""
    return PYTHON in process.calls.kind


def told(process: ProcessEvents, devices: list[DeviceTotals]) -> str:
    """The line."""
    missing = [] if has_operators(process) else ["operators"]
    if not has_stacks(process):
        missing.append("Python lines and modules (with_stack=True)")
    elif MODULE not in process.calls.kind:
        missing.append("modules")
    missing.append("names of tensors")
    if any(device.code for device in devices):
        missing.append("segments, requested sizes of CUDA (a size is that of the block)")
    if any(device.code == 0 for device in devices):
        missing.append("memory of the CPU from before the profile")
    facts = [f"a Chrome trace lacks {', '.join(missing)}"]
    if has_stacks(process):
        facts.append("a line is where its function begins")
    for device in devices:
        facts += _of_device(device)
    if process.other_devices:
        facts.append(f"{process.other_devices:,} events of other kinds of devices were left out")
    return "; ".join(facts)


def _of_device(device: DeviceTotals) -> list[str]:
    name = f"cuda:{device.code - 1}" if device.code else "cpu"
    facts = []
    before = sum(device.before.values()) + device.before_bytes
    if before:
        facts.append(f"{before:,} bytes of {name} are from before the profile")
    if device.jumps or device.differs_bytes:
        facts.append(
            f"{name}: torch's total changes {device.jumps:,} times by what no event tells (threads "
            f"that were not profiled), and is up to {device.differs_bytes:,} bytes another"
        )
    return facts
