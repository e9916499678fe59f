"""What half precision still computes in float32, and the copies that are made for that.

In float32 these copies don't exist: `.to(torch.float32)` of a float32 tensor is the tensor. Where
such a part computes, what it allocates stays float32; its inputs are copied as it begins, and what
leaves it is copied back. Autograd keeps the copy, and no more the input.

| part | found by | what is known of it |
| --- | --- | --- |
| RMS norms | a class named ...RMSNorm, T5LayerNorm | they upcast what they normalise |
| rotary embeddings | a class named ...RotaryEmbedding | angles are float32, what it returns
  is not |
| losses | what follows a model's call until the backward, transformers' loss functions | logits are
  upcast: by transformers, by autocast and by the usual training loop |
| clamps of T5, in float16 | the sums at the end of its layers | transformers clamps what may be
  infinite there |
| means, on the CPU | aten::mean | torch sums a float32 copy |
| inputs, on the CPU | what a model's call is given | they are made in float32, and cast at once |
| attention | attention.py | |
"""

from __future__ import annotations

import numpy as np

from memtrace.analyse.counters import Int64s, equals, integers
from memtrace.replay.requests import after, before
from memtrace.whatif.operator_calls import NONE
from memtrace.whatif.precision_change import PrecisionChange, runs

_CLAMPED = frozenset({"T5LayerSelfAttention", "T5LayerCrossAttention", "T5LayerFF"})
#: How many rows are looked through for an input, or for what takes its place.
_NEAR = 2000


def upcast(change: PrecisionChange, dtype: str) -> None:
    """By the table above, attention apart."""
    _norms(change)
    _rotary_embeddings(change)
    _losses(change)
    if dtype == "float16":
        _clamps(change)
    if change.requests.on_cpu:
        _means(change)
        _inputs(change)


def _norms(change: PrecisionChange) -> None:
    calls, start = change.calls, change.requests.start
    named = calls.module_class.fit(lambda text: text.endswith(("RMSNorm", "T5LayerNorm")))
    rows = np.flatnonzero(named & calls.phase.are({"forward"}) & change.float32)
    squares = np.cumsum(calls.operator.are({"aten::pow", "aten::square"})[rows])
    keys = squares * (len(calls.module.texts) + 1) + calls.module.codes[rows]
    for call in runs(keys, rows):
        sizes = change.requests.size_bytes[call]
        large = call[sizes == sizes.max()]
        if len(large) != 3:  # the square, the normalised, and that times the weight
            continue
        change.count("RMS norms")
        square, normal, result = large.tolist()
        inside = call[call != result]
        change.keep(inside)
        change.cast_result(normal, float(after(start[result])))
        window = change.passes.window(calls.root[inside])
        copied_until = float(after(start[normal])) if window is None else window[1]
        change.add(square, change.size(square), float(before(start[square])), copied_until)
        # T5's multiplies the input itself, which is so kept too.
        if window is not None and not calls.module_class.text(square).endswith("T5LayerNorm"):
            change.release_inputs(inside, _replaced(change, result))


def _replaced(change: PrecisionChange, result: int) -> float:
    """Where the module around a norm has made what takes the place of the norm's input."""
    parent = change.calls.module.text(result).rpartition(".")[0]
    limit = change.passes.next_backward(change.start(result))
    for row in range(result + 1, min(result + _NEAR, len(change.requests))):
        if change.start(row) >= limit:
            break
        if change.size(row) == change.size(result) and change.calls.module.text(row) == parent:
            return float(after(change.requests.start[row]))
    return float(after(change.requests.start[result]))


def _rotary_embeddings(change: PrecisionChange) -> None:
    calls = change.calls
    named = calls.module_class.fit(lambda text: text.endswith("RotaryEmbedding"))
    rows = np.flatnonzero(named & calls.phase.are({"forward"}))
    for call in runs(calls.module.codes[rows], rows):
        change.count("rotary embeddings")
        # What outlives the module's call is what it returns.
        inside = change.requests.free[call] <= change.start(int(call[-1])) + len(call)
        change.stay[call[inside]] = True


def _losses(change: PrecisionChange) -> None:
    for call in _of_losses(change):
        change.count("losses")
        first = int(call[0])
        source = _logits(change, first, int(change.requests.size_bytes[call].max()))
        roots = change.calls.root[call]
        change.keep(call)
        if source is None or change.size(source) <= 8:
            continue
        size, free = change.size(source), float(change.free[source])
        change.add(source, size, float(before(change.requests.start[first])), free)
        rows = change.passes.backward_of(roots)
        gradients = rows[change.requests.size_bytes[rows] == size]
        if len(gradients):
            change.cast_gradient(int(gradients[-1]))
        if len(rows) and change.passes.outlives_forward(source):
            change.free[source] = change.passes.next_backward(change.start(first)) - 0.25


def _of_losses(change: PrecisionChange) -> list[Int64s]:
    """What is computed between a model's call and the backward that follows it."""
    calls, requests = change.calls, change.requests
    forward = calls.phase.are({"forward"})
    own = np.flatnonzero(forward & calls.source.fit(lambda text: text.startswith("loss_utils.py")))
    found = runs(integers(requests.rows, "step", missing=NONE)[own], own)
    if not change.passes.trained:
        return found
    outside = np.flatnonzero(forward & (calls.module.codes == NONE))
    begins: list[int] = []
    ends: list[int] = []
    for group in requests.trace.datasets["steps"].row_groups(requests.process.key):
        table = group.read(["start_seq", "end_seq", "name"])
        table = table.filter(table.column("name").is_null())  # calls of models
        begins += integers(table, "start_seq").tolist()
        ends += [end for end in table["end_seq"].to_pylist() if end is not None]
    begins.sort()
    for end in sorted(ends):
        limit = change.passes.next_backward(end)
        later = np.searchsorted(begins, end)
        if later < len(begins):
            limit = min(limit, begins[later])
        elif not np.isfinite(limit):
            continue
        first, last = np.searchsorted(requests.start[outside], [end, limit])
        if first < last:
            found.append(outside[first:last])
    return found


def _logits(change: PrecisionChange, row: int, size_bytes: int) -> int | None:
    """The newest tensor of a size that is there when a row is allocated, or the largest output."""
    near = np.arange(max(row - _NEAR, 0), row)
    held = near[(change.requests.free[near] > change.start(row)) & change.float32[near]]
    fitting = held[change.requests.size_bytes[held] == size_bytes]
    if len(fitting):
        return int(fitting[-1])
    outputs = held[equals(change.requests.rows.take(held), "category", "output")]
    return int(outputs[change.requests.size_bytes[outputs].argmax()]) if len(outputs) else None


def _clamps(change: PrecisionChange) -> None:
    calls = change.calls
    sums = calls.module_class.are(_CLAMPED) & calls.operator.are({"aten::add"}) & change.float32
    for row in np.flatnonzero(sums & calls.phase.are({"forward"})).tolist():
        change.count("sums of T5, clamped")
        begin = float(after(change.requests.start[row]))
        kept = change.passes.outlives_forward(row)
        change.add(row, change.size(row) // 2, begin, float(change.free[row]) if kept else begin)


def _means(change: PrecisionChange) -> None:
    means = change.calls.operator.are({"aten::mean"}) & change.float32 & ~change.stay
    for row in change.large(np.flatnonzero(means)).tolist():
        source = _averaged(change, row)
        if source is not None:
            change.count("means")
            begin = change.requests.start[row]
            size = change.size(source) + change.size(row)
            change.add(row, size, float(before(begin)), float(after(begin)))


def _averaged(change: PrecisionChange, row: int) -> int | None:
    """The newest tensor that is larger, by a whole number."""
    for earlier in range(row - 1, max(row - 50, -1), -1):
        times, rest = divmod(change.size(earlier), change.size(row))
        held = change.requests.free[earlier] > change.start(row)
        if times > 1 and not rest and held and change.float32[earlier]:
            return earlier
    return None


def _inputs(change: PrecisionChange) -> None:
    rows = equals(change.requests.rows, "category", "input") & change.float32
    for row in change.large(np.flatnonzero(rows)).tolist():
        change.count("inputs")
        begin = change.requests.start[row]
        change.add(row, change.size(row), float(before(begin)), float(after(begin)))
