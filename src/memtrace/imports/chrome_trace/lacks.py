"""What a Chrome trace does not tell of a process, in one line."""

from __future__ import annotations

from memtrace.imports.chrome_trace.events import MODULE, OPERATOR, PYTHON, ProcessEvents
from memtrace.imports.chrome_trace.ledger import DeviceLedger


def has_operators(process: ProcessEvents) -> bool:
    """Whether it has calls of operators (activities=[CPU])."""
    return OPERATOR in process.calls.kind


def has_stacks(process: ProcessEvents) -> bool:
    """Whether it has calls of Python functions (with_stack=True)."""
    return PYTHON in process.calls.kind


def told(process: ProcessEvents, ledgers: list[DeviceLedger]) -> str:
    """The line."""
    missing = [] if has_operators(process) else ["operators"]
    if not has_stacks(process):
        missing.append("Python lines and modules (with_stack=True)")
    elif MODULE not in process.calls.kind:
        missing.append("modules")
    missing.append("names of tensors")
    if any(ledger.device for ledger in ledgers):
        missing.append("segments, requested sizes (a size is that of the block)")
    else:
        missing.append("memory of the CPU from before the profile")
    facts = [f"a Chrome trace lacks {', '.join(missing)}"]
    if has_stacks(process):
        facts.append("a line is where its function begins")
    for ledger in ledgers:
        facts += _of_device(ledger)
    if process.other_devices:
        facts.append(f"{process.other_devices:,} events of other kinds of devices were left out")
    return "; ".join(facts)


def _of_device(ledger: DeviceLedger) -> list[str]:
    name = f"cuda:{ledger.device - 1}" if ledger.device else "cpu"
    facts = []
    before = sum(ledger.before.values()) + ledger.before_bytes
    if before:
        facts.append(f"{before:,} bytes of {name} are from before the profile")
    if ledger.jumps or ledger.differs_bytes:
        facts.append(
            f"{name}: torch's total changes {ledger.jumps:,} times by what no event tells (threads "
            f"that were not profiled), and is up to {ledger.differs_bytes:,} bytes another"
        )
    return facts
