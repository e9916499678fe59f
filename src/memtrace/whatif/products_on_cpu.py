"""Products of linear layers in bfloat16 on a CPU: oneDNN's scratch, where float32 (MKL) has none.

A layer's weight has a name and a shape, so the bytes of a call's result tell how many rows went in;
its backward makes the gradient of the input, of as many rows, and that of the weight.
"""

from __future__ import annotations

import numpy as np

from memtrace.replay.requests import Requests, after
from memtrace.whatif.onednn_products import Product, scratch_bytes
from memtrace.whatif.precision_change import PrecisionChange

_PRODUCTS = frozenset({"aten::addmm", "aten::mm"})
_FLOAT_BYTES = 4
#: Smaller products torch computes by other kernels (aten/src/ATen/native/mkldnn/Matmul.cpp).
_LEAST = 16 * 16 * 16


def add_scratch(change: PrecisionChange, threads: int) -> None:
    """Of every product of a layer whose weight has a name."""
    calls = change.calls
    layers = _layers(change.requests)
    if not layers:
        return
    products = calls.operator.are(_PRODUCTS) & calls.module.are(layers) & change.float32
    conv1d = calls.module_class.are({"Conv1D"})  # of transformers: its weight lies the other way
    rows_of_call: dict[int, int] = {}
    for row in np.flatnonzero(products & calls.phase.are({"forward"})).tolist():
        shape = layers[calls.module.text(row)]
        width, depth = shape[::-1] if conv1d[row] else shape
        count, rest = divmod(change.size(row), width * _FLOAT_BYTES)
        if not rest:
            rows_of_call[int(calls.root[row])] = count
            _add(change, row, Product(count, width, depth), threads)
    backward: dict[int, list[int]] = {}
    for row in np.flatnonzero(products & calls.phase.are({"backward"})).tolist():
        backward.setdefault(int(calls.forward_root[row]), []).append(row)
    for call, gradients in backward.items():
        count = rows_of_call.get(call, 0)
        width, depth = layers[calls.module.text(gradients[0])]
        for place, row in enumerate(gradients):
            last = place == len(gradients) - 1  # the weight's gradient is the second of two
            if change.size(row) == width * depth * _FLOAT_BYTES and last and count:
                _add(change, row, Product(width, depth, count, transposed=True), threads)
            elif change.size(row) == count * depth * _FLOAT_BYTES:
                _add(change, row, Product(count, depth, width), threads)


def _add(change: PrecisionChange, row: int, product: Product, threads: int) -> None:
    if product.rows * product.columns * product.depth <= _LEAST:
        return
    begin = change.requests.start[row]
    size = scratch_bytes(product, threads)
    change.add(row, size, float(after(begin)), float(after(begin)))


def _layers(requests: Requests) -> dict[str, tuple[int, int]]:
    """Module -> the shape of its weight, where that is a matrix."""
    found = {}
    for group in requests.trace.datasets["names"].row_groups(requests.process.key):
        for name in group.read(["name", "kind", "shape"]).to_pylist():
            shape: list[int] = name["shape"] or []
            module, _, last = name["name"].rpartition(".")
            if name["kind"] == "weight" and last == "weight" and len(shape) == 2:
                found[module] = (shape[0], shape[1])
    return found
