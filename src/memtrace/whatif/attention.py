"""Attention in half precision, where in float32 it is computed by plain operators.

On the CPU torch then upcasts query, key and value; the scores stay float32, and the result is cast.
On CUDA the fused kernel takes it, which has none of float32, unless there is another mask than the
causal one: no scores; autograd keeps query, key, value and result themselves.
"""

from __future__ import annotations

import numpy as np

from memtrace.analyse.counters import Int64s
from memtrace.replay.requests import after, before
from memtrace.whatif.precision_change import PrecisionChange, runs

_SOFTMAX = frozenset({"aten::_softmax", "aten::_safe_softmax"})
_MASKING = frozenset({"aten::where", "aten::add", "aten::masked_fill", "aten::logical_not"})
#: Elements of a head, where nothing tells: the fused kernel keeps one float32 for as many.
_HEAD_SIZE = 64


def attend(change: PrecisionChange) -> None:
    """Every call of scaled_dot_product_attention that runs no kernel of its own."""
    calls = change.calls
    of_attention = calls.top_operator.are({"aten::scaled_dot_product_attention"})
    rows = np.flatnonzero(of_attention & calls.phase.are({"forward"}))
    for call in runs(calls.root[rows], rows):
        parts = _Parts(change, call)
        if not parts.complete:
            continue
        if not change.requests.on_cpu and parts.has_no_mask:
            change.count("attention by the fused kernel, which has none of float32")
            _fuse(change, parts)
        else:
            change.count("attention as plain operators")
            _upcast(change, parts)


class _Parts:
    """The rows of one call: query and key times the scale, scores, their product with the value."""

    def __init__(self, change: PrecisionChange, call: Int64s) -> None:
        self.call = call
        named = [(change.calls.operator.text(row), row) for row in change.large(call).tolist()]
        self.names = {name for name, _ in named}
        self.scaled = [row for name, row in named if name == "aten::mul"][:2]
        self.scores = max((row for name, row in named if name in _SOFTMAX), default=-1)
        self.product = max((row for name, row in named if name == "aten::bmm"), default=-1)
        # Where the values had to be cloned for the product, the clone is what autograd keeps.
        self.value_is_cloned = any(
            name == "aten::clone" and row > self.scores for name, row in named
        )

    @property
    def complete(self) -> bool:
        return len(self.scaled) == 2 and 0 <= self.scores < self.product

    @property
    def has_no_mask(self) -> bool:
        """None but the causal one, which is made as a triangle."""
        return "aten::tril" in self.names or not self.names & _MASKING


def _upcast(change: PrecisionChange, parts: _Parts) -> None:
    first, last = int(parts.call[0]), int(parts.call[-1])
    begin, end = (float(before(change.requests.start[first])), change.start(last) + 0.25)
    change.keep(parts.call)
    query, key = parts.scaled
    for row in (query, key):
        change.add(row, change.size(row), begin, end)
    kept = change.passes.outlives_forward(parts.scores) and not parts.value_is_cloned
    value_end = float(change.free[parts.scores]) if kept else end
    change.add(key, change.size(key), begin, value_end)
    change.add(parts.scores, change.size(parts.scores) // 2, change.start(last), end)
    change.cast_result(parts.product, end)
    change.release_inputs(parts.call, end)


def _fuse(change: PrecisionChange, parts: _Parts) -> None:
    call, result, free = parts.call, parts.product, change.free
    size = change.size(parts.scaled[0])
    change.gone[call] = True
    change.gone[result] = False
    _take_place_of_copy(change, int(call[-1]) + 1, result)
    trained = change.passes.outlives_forward(parts.scores)
    end = float(free[parts.scores]) if trained else float(after(change.requests.start[result]))
    change.add(result, size // _HEAD_SIZE, float(before(change.requests.start[result])), end)
    if not trained:
        return
    kept = np.append(_inputs(change, call), result)
    free[kept] = np.maximum(free[kept], end)
    rows = change.passes.backward_of(change.calls.root[call])
    if not len(rows):
        return
    change.gone[rows[free[rows] < change.passes.next_start(int(rows[-1]))]] = True
    begin, last = float(before(change.requests.start[rows[0]])), change.start(int(rows[-1]))
    # Sums of rows, the query's gradient in float32, and those of key and value for each head.
    for size_bytes in (size // _HEAD_SIZE, size, size // 2, size // 2):
        change.add(parts.scaled[0], size_bytes, begin, last)


def _take_place_of_copy(change: PrecisionChange, copy: int, result: int) -> None:
    """The kernel's result lies as the next layer wants it: it is not copied for that."""
    if (
        copy < len(change.requests)
        and change.calls.operator.text(copy) == "aten::clone"
        and change.size(copy) == change.size(result)
    ):
        change.gone[copy] = True
        change.free[result] = change.free[copy]


def _inputs(change: PrecisionChange, call: Int64s) -> Int64s:
    """What the module has made of query, key and value, and still holds as the call begins."""
    first = int(call[0])
    near = np.arange(max(first - 10 * len(call) - 100, 0), first)
    module = change.calls.module.text(first)
    codes = [change.calls.module.text(row).startswith(module) for row in near.tolist()]
    held = np.array(codes, np.bool_) & (change.requests.free[near] > change.start(first))
    return near[held & change.float32[near]]
