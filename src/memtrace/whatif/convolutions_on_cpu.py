"""Convolutions in half precision on a CPU.

oneDNN has kernels of bfloat16 for CPUs with AVX-512, and of float16 for few. With them the gradient
of a weight is summed in float32 for each part of the batch that has threads of its own, from
transposed copies of an input and a result (src/cpu/x64/jit_avx512_core_bf16_conv_kernel.cpp).
Without them torch's own kernel runs: oneDNN's reordered copies go, and the unfolded input comes,
for each element of the result of a channel as many elements as one filter has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from memtrace.analyse.counters import integers
from memtrace.replay.requests import Requests, after, before
from memtrace.whatif.operator_calls import NONE
from memtrace.whatif.precision_change import PrecisionChange, runs

_HALF_BYTES, _FLOAT_BYTES = 2, 4
#: Channels of a block.
_BLOCK = 16
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
            channels, *one_filter = filters[module]
            elements = change.size(kept) // (4 * channels) * math.prod(one_filter)
            unfolded[module] = elements * _HALF_BYTES
            begin = float(before(requests.start[kept]))
        else:
            # What outlives the call are gradients: of the weight, the bias and the input.
            kept = int(call[-1])
            change.gone[call[requests.free[call] < change.passes.next_start(kept)]] = True
            begin = change.start(kept)
        end = float(after(requests.start[kept]))
        change.add(kept, unfolded.get(module, 0), begin, end)


def sum_gradients(change: PrecisionChange, threads: int) -> None:
    """Adds what the kernel of weights' gradients sums and copies."""
    requests, calls = change.requests, change.calls
    filters, batches = _filters(requests), _batches(requests)
    steps = integers(requests.rows, "step", missing=NONE)
    results = _results(change, filters)
    rows = np.flatnonzero(calls.operator.are({_BACKWARD}) & calls.module.are(filters))
    for call in runs(calls.root[rows], rows):
        first = int(call[0])
        shape = filters[calls.module.text(first)]
        weight = math.prod(shape)
        found = np.flatnonzero(requests.size_bytes[call] == weight * _FLOAT_BYTES)
        result = results.get(int(calls.forward_root[first]), 0)
        if not len(found) or not result:
            continue
        # The last one is laid out for torch; the kernel wrote the one before.
        at = int(found[-2:][0])
        near = requests.size_bytes[call[max(at - 2, 0) : at]] // _FLOAT_BYTES
        other = near[near != result]
        source = int(other[-1]) if len(other) else result
        batch = batches.get(int(steps[call[at]]), 1)
        source = _padded(source, source / (batch * shape[1]), result / (batch * shape[0]), shape)
        parts = _parts(_Sizes(source, result, shape[1], shape[0], weight), threads)
        size = weight * _FLOAT_BYTES + (source + result) // batch * _HALF_BYTES
        begin = requests.start[call[at]]
        change.add(int(call[at]), parts * size, float(after(begin)), float(after(begin)))


def _padded(source: int, image: float, result: float, shape: tuple[int, ...]) -> int:
    """Elements of the input with the ends that its transposed lines have; of images as wide as they
    are high, since the trace has no shapes.

    Args:
        image, result: elements of a channel of one input, and of one result.
        shape: of the weight.
    """
    dimensions = len(shape) - 2
    width, wide = (math.pow(value, 1 / dimensions) for value in (image, result))
    stride = max(round(width / wide), 1)
    pad = shape[-1] // 2 + (stride == 1)
    line = math.ceil(width / stride) + pad + pad % 2
    return round(source * (line + line % 2) * stride / width)


@dataclass(frozen=True)
class _Sizes:
    """Elements of a convolution's input (padded), result and weight; channels of the first two."""

    source: int
    result: int
    inputs: int
    outputs: int
    weight: int


def _parts(of: _Sizes, threads: int) -> int:
    """Parts of the batch that have threads, and a sum, of their own: those that move least memory
    (`balance` there); the others share the channels."""
    inputs, outputs = (max(-(-channels // _BLOCK), 1) for channels in (of.inputs, of.outputs))
    ratio = 0.5 * (of.source + of.result) * _HALF_BYTES / (of.weight * _FLOAT_BYTES)
    # A stride skips so much of the input.
    read = of.source / max(round(of.source * of.outputs / (of.result * of.inputs)), 1)
    read *= max(inputs / outputs, 1.0) * (4 if ratio < 1 else 1)
    written = of.result * max(outputs / inputs, 1.0)
    best, chosen = float("inf"), 1
    for parts in range(1, threads + 1):
        for by_output in range(1, min(threads // parts, outputs) + 1):
            by_input = min(threads // parts // by_output, inputs)
            input_share = -(-inputs // by_input) / inputs
            output_share = -(-outputs // by_output) / outputs
            cost = (read * input_share + written * output_share) / parts
            cost += max(ratio, 1.0) * of.weight * input_share * output_share
            if cost <= best:
                best, chosen = cost, parts
    return chosen


def _results(change: PrecisionChange, filters: dict[str, tuple[int, ...]]) -> dict[int, int]:
    """Root call -> elements of a forward's result."""
    calls = change.calls
    rows = np.flatnonzero(calls.operator.are({CONVOLUTION}) & calls.module.are(filters))
    return {
        int(calls.root[call[0]]): change.size(int(call[change.requests.free[call].argmax()]))
        // _FLOAT_BYTES
        for call in runs(calls.root[rows], rows)
    }


def _batches(requests: Requests) -> dict[int, int]:
    """Step -> its batch size."""
    found = {}
    for group in requests.trace.datasets["steps"].row_groups(requests.process.key):
        for step in group.read(["step", "batch_size"]).to_pylist():
            found[step["step"]] = step["batch_size"] or 1
    return found


def _filters(requests: Requests) -> dict[str, tuple[int, ...]]:
    """Module -> the shape of its weight: output channels first."""
    found = {}
    ids = set(integers(requests.rows, "allocation_id").tolist())
    for group in requests.trace.datasets["names"].row_groups(requests.process.key):
        for name in group.read(["allocation_id", "name", "kind", "shape"]).to_pylist():
            shape: list[int] = name["shape"] or []
            if name["kind"] == "weight" and len(shape) > 2 and name["allocation_id"] in ids:
                found[name["name"].rpartition(".")[0]] = tuple(shape)
    return found
