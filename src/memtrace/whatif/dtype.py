"""What if the program ran in half precision: float32 tensors at half their bytes.

Which they are: `recorded_dtypes.py`. What stays float32 in a program in half precision, and what
it then copies: `upcasts.py`.
"""

from __future__ import annotations

import numpy as np

from memtrace.analyse.counters import Int64s
from memtrace.errors import MemtraceError
from memtrace.replay.requests import Requests
from memtrace.whatif.attention import attend
from memtrace.whatif.change import Change
from memtrace.whatif.convolutions_on_cpu import CONVOLUTION, sum_gradients, unfold_convolutions
from memtrace.whatif.cpu_kernels import CpuKernels, cpu_kernels
from memtrace.whatif.operator_calls import OperatorCalls
from memtrace.whatif.precision_change import PrecisionChange
from memtrace.whatif.products_on_cpu import add_scratch
from memtrace.whatif.recorded_dtypes import FLOAT32, RecordedDtypes, recorded_dtypes
from memtrace.whatif.recurrent_on_cpu import recur
from memtrace.whatif.upcasts import upcast

_LAYERS = frozenset({"aten::linear", "aten::conv2d", "aten::matmul"})
DTYPES = {"fp16": "float16", "float16": "float16", "bf16": "bfloat16", "bfloat16": "bfloat16"}


def apply(requests: Requests, text: str) -> Change:
    """`text`: fp16 or bf16.

    Raises:
        MemtraceError: another dtype, or the program is in half precision already.
    """
    dtype = DTYPES.get(text)
    if dtype is None:
        raise MemtraceError(f"--dtype {text}: there are fp16 and bf16")
    calls = OperatorCalls(requests)
    _refuse_autocast(requests, calls, text)
    recorded = recorded_dtypes(requests, calls)
    if recorded.weights and FLOAT32 not in recorded.weights:
        raise MemtraceError(f"--dtype {text}: the weights are {recorded.weights[0]}, not float32")
    change = PrecisionChange(requests, calls, recorded.float32)
    attend(change)
    upcast(change, dtype)
    told = _on_the_cpu(change, dtype) if requests.on_cpu else ()
    halved = recorded.float32 & ~change.stay
    size: Int64s = np.where(halved, requests.size_bytes // 2, requests.size_bytes)
    size[list(change.sizes_bytes)] = list(change.sizes_bytes.values())
    return Change(
        requests=change.applied(requests.resized(size)),
        what=f"{FLOAT32} as {dtype}",
        assumptions=(
            *_assumptions(requests, recorded, change),
            *told,
        ),
    )


def _refuse_autocast(requests: Requests, calls: OperatorCalls, text: str) -> None:
    """Under autocast layers cast their inputs and weights: products are half as large already."""
    casts = calls.operator.are({"aten::_to_copy"}) & calls.top_operator.are(_LAYERS)
    if (casts & (requests.size_bytes > 8)).any():
        raise MemtraceError(
            f"--dtype {text}: the program ran under autocast, in part in half already"
        )


def _assumptions(
    requests: Requests, recorded: RecordedDtypes, change: PrecisionChange
) -> tuple[str, ...]:
    told = ["the whole program is cast (model.to), not run under autocast"]
    if change.parts:
        parts = ", ".join(f"{part} ({count:,})" for part, count in change.parts.items())
        told.append(f"float32 in part, or by other kernels: {parts}")
    unknown = int(requests.size_bytes[recorded.unknown].sum())
    if unknown:
        told.append(f"left as they were, of no known dtype: {unknown:,} B of allocations")
    return tuple(told)


def _on_the_cpu(change: PrecisionChange, dtype: str) -> tuple[str, ...]:
    """Kernels of the CPU in half precision, and what is taken for granted of them."""
    kernels = cpu_kernels(change.requests.process)
    recur(change, dtype, kernels)
    if dtype not in kernels.dtypes:
        unfold_convolutions(change)
        if change.calls.operator.are({CONVOLUTION}).any():
            return (f"the CPU has no kernels of {dtype} for convolutions: their input is unfolded",)
        return ()
    return _scratch(change, kernels)


def _scratch(change: PrecisionChange, kernels: CpuKernels) -> tuple[str, ...]:
    scratch = "oneDNN's scratch of layers in half precision"
    if kernels.threads is None or not kernels.blocks_known:
        return (f"{scratch} is not counted (0.1 to 1 MB a thread)",)
    add_scratch(change, kernels.threads)
    sum_gradients(change, kernels.threads)
    return (f"{scratch} is that of {kernels.threads:,} threads of AVX-512 without AMX",)
