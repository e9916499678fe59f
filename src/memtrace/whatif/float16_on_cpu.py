"""Convolutions in float16 on a CPU: by torch's own kernel, which unfolds the input.

oneDNN, which computes them in float32 and bfloat16, has kernels of float16 only for some CPUs; this
is about all others. Its reordered copies go, and the unfolded input comes: for each element of the
result of a channel as many elements as one filter has.
"""

from __future__ import annotations

import math

import numpy as np

from memtrace.analyse.counters import integers
from memtrace.replay.requests import Requests, after, before
from memtrace.whatif.operator_calls import Calls
from memtrace.whatif.upcasts import Upcasts

FLOAT16_BYTES = 2
CONVOLUTION = "aten::mkldnn_convolution"
_BACKWARD = "aten::convolution_backward"


def unfold_convolutions(requests: Requests, calls: Calls, changes: Upcasts) -> None:
    """Adds the unfolded inputs to the changes, and takes the reordered copies away.

    Args:
        requests: as recorded, in float32.
    """
    filters = _filters(requests)
    chosen = calls.operator.are({CONVOLUTION, _BACKWARD}) & calls.module.are(filters)
    rows = np.flatnonzero(chosen)
    _, first = np.unique(calls.root[rows], return_index=True)
    unfolded: dict[str, int] = {}
    for call in np.split(rows, np.sort(first)[1:]) if len(rows) else []:
        module = calls.module.text(call[0])
        channels, filter_elements = filters[module]
        forward = calls.operator.text(call[0]) == CONVOLUTION
        kept = call[requests.free[call].argmax()] if forward else call[-1]
        if forward:
            changes.gone[call[call != kept]] = True
            elements = int(requests.size_bytes[kept]) // (4 * channels) * filter_elements
            unfolded[module] = elements * FLOAT16_BYTES
            begin = before(requests.start[kept])
        else:
            # Gradients of the weight and the bias outlive the call, and so does the input's.
            following = min(int(kept) + 1, len(requests) - 1)
            changes.gone[call[requests.free[call] < requests.start[following]]] = True
            begin = requests.start[kept]
        size = unfolded.get(module, 0)
        changes.add(int(kept), size, float(begin), float(after(requests.start[kept])))


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
