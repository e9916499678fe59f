"""Convolutions in half precision on a CPU.

oneDNN has kernels of bfloat16 for CPUs with AVX-512, and of float16 for few. With them the gradient
of a weight is summed in float32, once at least (once for each part of the batch that has threads of
its own: src/cpu/x64/jit_avx512_core_bf16_conv_kernel.cpp). Without them torch's own kernel runs:
oneDNN's reordered copies go, and the unfolded input comes, for each element of the result of a
channel as many elements as one filter has.
"""

from __future__ import annotations

import math

import numpy as np

from memtrace.analyse.counters import integers
from memtrace.replay.requests import Requests, after, before
from memtrace.whatif.precision_change import PrecisionChange, runs

_HALF_BYTES, _FLOAT_BYTES = 2, 4
CONVOLUTION = "aten::mkldnn_convolution"
_BACKWARD = "aten::convolution_backward"


def unfold_convolutions(change: PrecisionChange) -> None:
    """Adds the unfolded inputs, and takes the reordered copies away."""
    requests, calls = change.requests, change.calls
    filters = _filters(requests)
    chosen = calls.operator.are({CONVOLUTION, _BACKWARD}) & calls.module.are(filters)
    rows = np.flatnonzero(chosen)
    unfolded: dict[str, int] = {}
    for call in runs(calls.root[rows], rows):
        module = calls.module.text(call[0])
        if calls.operator.text(call[0]) == CONVOLUTION:
            kept = int(call[requests.free[call].argmax()])
            change.gone[call[call != kept]] = True
            channels, filter_elements = filters[module]
            elements = change.size(kept) // (4 * channels) * filter_elements
            unfolded[module] = elements * _HALF_BYTES
            begin = float(before(requests.start[kept]))
        else:
            # What outlives the call are gradients: of the weight, the bias and the input.
            kept = int(call[-1])
            change.gone[call[requests.free[call] < change.passes.next_start(kept)]] = True
            begin = change.start(kept)
        end = float(after(requests.start[kept]))
        change.add(kept, unfolded.get(module, 0), begin, end)


def sum_gradients(change: PrecisionChange) -> None:
    """Adds the gradients of weights in float32, which the kernel sums."""
    requests, calls = change.requests, change.calls
    filters = _filters(requests)
    rows = np.flatnonzero(calls.operator.are({_BACKWARD}) & calls.module.are(filters))
    for call in runs(calls.root[rows], rows):
        channels, filter_elements = filters[calls.module.text(int(call[0]))]
        size = channels * filter_elements * _FLOAT_BYTES
        weights = call[requests.size_bytes[call] == size]
        if len(weights):
            # The last one is laid out for torch; the kernel wrote the one before.
            begin = requests.start[weights[-2:][0]]
            change.add(int(weights[-1]), size, float(after(begin)), float(after(begin)))


def _filters(requests: Requests) -> dict[str, tuple[int, int]]:
    """Module -> its output channels, and the elements of one filter."""
    found = {}
    ids = set(integers(requests.rows, "allocation_id").tolist())
    for group in requests.trace.datasets["names"].row_groups(requests.process.key):
        for name in group.read(["allocation_id", "name", "kind", "shape"]).to_pylist():
            shape: list[int] = name["shape"] or []
            if name["kind"] == "weight" and len(shape) > 2 and name["allocation_id"] in ids:
                found[name["name"].rpartition(".")[0]] = (shape[0], math.prod(shape[1:]))
    return found
