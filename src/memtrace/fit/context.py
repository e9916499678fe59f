"""What a process holds of a GPU beside torch's allocator: the CUDA context, kernels, libraries."""

from __future__ import annotations

from dataclasses import dataclass

from memtrace.analyse.ledger import make_ledger
from memtrace.analyse.target import total_bytes
from memtrace.replay.device import recorded_device
from memtrace.replay.requests import read_requests
from memtrace.trace import Process, Trace

_MIB = 1 << 20
#: Where nothing was sampled: from a context alone to one with cuBLAS, cuDNN and many kernels.
ASSUMED_LOW_BYTES, ASSUMED_HIGH_BYTES = 300 * _MIB, 600 * _MIB


@dataclass(frozen=True)
class Context:
    """A range; `sampled`: whether it was counted on the recorded device."""

    low_bytes: int
    high_bytes: int
    sampled: bool


ASSUMED = Context(ASSUMED_LOW_BYTES, ASSUMED_HIGH_BYTES, sampled=False)


def find_context(trace: Trace, process: Process, device: str) -> Context:
    """The most that was sampled of the process, else of the device less torch; else ASSUMED."""
    if device == "cpu":
        return ASSUMED
    ledger = make_ledger(trace, device=device, process=process.key)
    instants = [
        instant for d in ledger.devices for stage in d.stages for instant in (stage.peak, stage.end)
    ]
    own = [size for i in instants if (size := i.size_bytes("context")) is not None]
    if own and max(own) > 0:
        return Context(max(own), max(own), sampled=True)
    # Other processes may have held a part of it.
    shared = [size for i in instants if (size := i.size_bytes("context_and_others")) is not None]
    if total_bytes(process, device) is not None:
        known = recorded_device(read_requests(trace, device=device, process=process.key))
        shared += [known.outside_bytes] if known.outside_known else []
    if shared and max(shared) > 0:
        return Context(min(ASSUMED_LOW_BYTES, max(shared)), max(shared), sampled=True)
    return ASSUMED
