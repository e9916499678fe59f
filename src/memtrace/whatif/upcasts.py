"""What half precision still computes in float32, and the copies that are made for that.

In float32 these copies don't exist: `.to(torch.float32)` of a float32 tensor is the tensor. Where
such a part computes, what it allocates stays float32; its inputs are copied as it begins, and what
leaves it is copied back. Autograd keeps the copy, and no more the input.

| part | found by | what is known of it |
| --- | --- | --- |
| attention as plain operators | scaled_dot_product_attention without its kernels | torch upcasts
  query, key and value, and the scores stay float32 |
| fused attention, on CUDA | the same, with no mask but the causal one | in half precision the
  fused kernel takes it: no scores, query, key and value are kept |
| RMS norms | a class named ...RMSNorm, T5LayerNorm | they upcast what they normalise |
| rotary embeddings | a class named ...RotaryEmbedding | angles are float32, what it returns
  is not |
| losses | what follows a model's call until the backward, transformers' loss functions | logits are
  upcast: by transformers, by autocast and by the usual training loop |
| clamps of T5, in float16 | the sums at the end of its layers | transformers clamps what may be
  infinite there |
| means, on the CPU | aten::mean | torch sums a float32 copy |
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from memtrace.analyse.counters import Flags, Int64s, equals, integers
from memtrace.replay.requests import NEVER, Places, Requests, after, before
from memtrace.whatif.operator_calls import NONE, Calls

_ATTENTION = "aten::scaled_dot_product_attention"
_MASKING = frozenset({"aten::where", "aten::add", "aten::masked_fill", "aten::logical_not"})
#: Elements of a head, where nothing tells: the fused kernel keeps one sum of float32 for them.
_HEAD_SIZE = 64
_CLAMPED = frozenset({"T5LayerSelfAttention", "T5LayerCrossAttention", "T5LayerFF"})
_PLAIN_ATTENTION = ("aten::_softmax", "aten::_safe_softmax")


@dataclass
class Upcasts:
    """What changes besides sizes.

    Attributes:
        stay: rows that remain float32.
        gone: rows that are no more: another kernel runs.
        free: of every row: an input that autograd no longer keeps goes earlier.
        like, size_bytes, start, end: of each copy that is added.
        parts: what was found, and how often.
    """

    stay: Flags
    gone: Flags
    free: Places
    like: list[int] = field(default_factory=list)
    size_bytes: list[int] = field(default_factory=list)
    start: list[float] = field(default_factory=list)
    end: list[float] = field(default_factory=list)
    parts: dict[str, int] = field(default_factory=dict)

    def add(self, like: int, size_bytes: int, start: float, end: float) -> None:
        """A copy, from one place to another."""
        self.like.append(like)
        self.size_bytes.append(size_bytes)
        self.start.append(start)
        self.end.append(max(end, start + 1 / 64))

    def applied(self, requests: Requests) -> Requests:
        """With the copies, the lives of inputs, and without what is gone."""
        requests = requests.moved(free=self.free)
        requests = requests.added(
            np.array(self.like, np.int64),
            size_bytes=np.array(self.size_bytes, np.int64),
            start=np.array(self.start),
            free=np.array(self.end),
            category="temporary",
        )
        return requests.chosen(np.concatenate([~self.gone, np.ones(len(self.like), np.bool_)]))


def find_upcasts(requests: Requests, calls: Calls, float32: Flags, dtype: str) -> Upcasts:
    """By the table above; `float32`: rows that are float32 as recorded."""
    finder = _Finder(requests, calls, float32)
    finder.attention()
    finder.norms()
    finder.rotary_embeddings()
    finder.losses()
    if dtype == "float16":
        finder.clamps()
    if requests.on_cpu:
        finder.means()
    return finder.found


class _Finder:
    def __init__(self, requests: Requests, calls: Calls, float32: Flags) -> None:
        self._requests, self._calls, self._float32 = requests, calls, float32
        self._start, self._free, self._size = requests.start, requests.free, requests.size_bytes
        self._forward = calls.phase.are({"forward"})
        none = np.zeros(len(requests), np.bool_)
        self.found = Upcasts(none, none.copy(), requests.free.copy())
        backward = np.flatnonzero(calls.phase.are({"backward"}))
        self._backward_starts = self._start[backward]
        belongs = np.flatnonzero(calls.forward_root != NONE)
        order = np.argsort(calls.forward_root[belongs], kind="stable")
        self._belonging = belongs[order]
        self._belonging_root = calls.forward_root[self._belonging]

    def attention(self) -> None:
        rows = np.flatnonzero(self._calls.top_operator.are({_ATTENTION}) & self._forward)
        plain = self._calls.operator.are(_PLAIN_ATTENTION)
        for call in _runs(self._calls.root[rows], rows):
            large = call[self._size[call] > 8]
            scaled = [row for row in large if self._calls.operator.text(row) == "aten::mul"][:2]
            out = [row for row in large if self._calls.operator.text(row) == "aten::bmm"][-1:]
            if not plain[call].any():
                continue
            scores = large[plain[large]][-1]
            if not self._requests.on_cpu and scaled and out and self._can_be_fused(call):
                self._count("attention by the fused kernel, which has none of float32")
                self._fuse(call, int(scaled[0]), int(scores), int(out[0]))
                continue
            self._count("attention as plain operators")
            self._keep(call)
            end = float(after(self._start[call[-1]]))
            begin = float(before(self._start[call[0]]))
            for row in scaled:
                self.found.add(row, int(self._size[row]), begin, end)
            if not scaled or not out:
                continue
            # Where the values had to be cloned for the product, the clone is what autograd keeps.
            cloned = any(
                self._calls.operator.text(row) == "aten::clone" for row in large[large > scores]
            )
            kept = self._crosses_backward(scores) and not cloned
            value_end = float(self._free[scores]) if kept else end
            self.found.add(scaled[-1], int(self._size[scaled[-1]]), begin, value_end)
            self.found.add(scores, int(self._size[scores]) // 2, float(self._start[call[-1]]), end)
            self._cast_back(out[0], end)
            self._release_inputs(call, end)

    def _can_be_fused(self, call: Int64s) -> bool:
        """The fused kernel takes no mask but the causal one, which is made as a triangle."""
        names = {self._calls.operator.text(row) for row in call.tolist()}
        return "aten::tril" in names or not names & _MASKING

    def _fuse(self, call: Int64s, query: int, scores: int, out: int) -> None:
        """Keeps the result, which lies as the next layer wants it, and adds sums of the rows.

        Autograd keeps query, key, value and the result themselves, and no scores.
        """
        size, found = int(self._size[query]), self.found
        found.gone[call] = True
        found.gone[out] = False
        copy = int(call[-1]) + 1
        if (
            copy < len(self._size)
            and self._calls.operator.text(copy) == "aten::clone"
            and self._size[copy] == self._size[out]
        ):
            found.gone[copy] = True
            found.free[out] = found.free[copy]
        trained = self._crosses_backward(scores)
        sums_end = float(self._free[scores] if trained else after(self._start[out]))
        found.add(out, size // _HEAD_SIZE, float(before(self._start[out])), sums_end)
        if not trained:
            return
        found.free[out] = max(found.free[out], sums_end)
        module = self._calls.module.text(call[0])
        mine = self._calls.module.fit(lambda text: text.startswith(module)) & self._float32
        alive = (self._start < self._start[call[0]]) & (self._free > self._start[call[0]])
        alive &= mine & (self._start > self._start[call[0]] - 10 * len(call) - 100)
        found.free[alive] = np.maximum(found.free[alive], self._free[scores])
        rows = self._of_roots(self._calls.root[call])
        if not len(rows):
            return
        following = self._start[min(int(rows[-1]) + 1, len(self._start) - 1)]
        found.gone[rows[self._free[rows] < following]] = True
        begin, end = float(before(self._start[rows[0]])), float(self._start[rows[-1]])
        for size_bytes in (size // _HEAD_SIZE, size, size // 2, size // 2):
            found.add(query, size_bytes, begin, end)

    def norms(self) -> None:
        named = self._calls.module_class.fit(lambda text: text.endswith(("RMSNorm", "T5LayerNorm")))
        rows = np.flatnonzero(named & self._forward & self._float32)
        begins = np.cumsum(self._calls.operator.are({"aten::pow", "aten::square"})[rows])
        for call in _runs(
            begins * (len(self._calls.module.texts) + 1) + self._calls.module.codes[rows], rows
        ):
            n = self._size[call].max()
            large = call[self._size[call] == n]
            if len(large) != 3:  # the square, the normalised, times the weight
                continue
            self._count("RMS norms")
            square, normal, out = large.tolist()
            self._keep(call[(call != normal) & (call != out)])
            end = float(after(self._start[out]))
            self.found.add(normal, int(n), float(before(self._start[normal])), end)
            last = float(after(self._start[normal]))
            window = self._backward_window(self._calls.root[call[call != out]])
            if window is not None:
                last = window[1]
                self._keep_backward(self._calls.root[call[call != out]])
            self.found.add(square, int(n), float(before(self._start[square])), last)
            if not self._calls.module_class.text(square).endswith("T5LayerNorm"):
                self._release_inputs(call[call != out], self._replaced(out, n))

    def rotary_embeddings(self) -> None:
        named = self._calls.module_class.fit(lambda text: text.endswith("RotaryEmbedding"))
        rows = np.flatnonzero(named & self._forward)
        for call in _runs(self._calls.module.codes[rows], rows):
            self._count("rotary embeddings")
            self.found.stay[call[self._free[call] <= self._start[call[-1]] + len(call)]] = True

    def losses(self) -> None:
        for call in self._after_steps():
            self._count("losses")
            largest = call[self._size[call].argmax()]
            first = int(call[0])
            begin = float(before(self._start[first]))
            source = self._input_of(first, int(self._size[largest]))
            roots = self._calls.root[call]
            self._keep(call)
            window = self._keep_backward(roots)
            if source is None or self._size[source] <= 8:
                continue
            size = int(self._size[source])
            self.found.add(source, size, begin, float(self._free[source]))
            if window is None:
                continue
            mine = self._of_roots(roots)
            grads = mine[self._size[mine] == size]
            if len(grads):
                self._cast_after(int(grads[-1]))
            if self._crosses_backward(source):
                self.found.free[source] = before(np.array(self._next_backward(first)))

    def clamps(self) -> None:
        rows = self._calls.module_class.are(_CLAMPED) & self._calls.operator.are({"aten::add"})
        for row in np.flatnonzero(rows & self._forward & self._float32).tolist():
            self._count("sums of T5, clamped")
            begin = float(after(self._start[row]))
            end = float(self._free[row]) if self._crosses_backward(row) else begin
            self.found.add(row, int(self._size[row]) // 2, begin, end)

    def means(self) -> None:
        rows = self._calls.operator.are({"aten::mean"}) & self._float32 & ~self.found.stay
        for row in np.flatnonzero(rows & (self._size > 8)).tolist():
            source = self._larger_input_of(row)
            if source is None:
                continue
            self._count("means")
            begin, end = float(before(self._start[row])), float(after(self._start[row]))
            self.found.add(row, int(self._size[source] + self._size[row]), begin, end)

    def _count(self, part: str) -> None:
        self.found.parts[part] = self.found.parts.get(part, 0) + 1

    def _keep(self, rows: Int64s) -> None:
        self.found.stay[rows] = True
        self._keep_backward(self._calls.root[rows])

    def _of_roots(self, roots: Int64s) -> Int64s:
        wanted = np.unique(roots[roots != NONE])
        first = np.searchsorted(self._belonging_root, wanted, "left")
        last = np.searchsorted(self._belonging_root, wanted, "right")
        parts = [self._belonging[a:b] for a, b in zip(first, last, strict=True)]
        return np.sort(np.concatenate(parts)) if parts else np.zeros(0, np.int64)

    def _keep_backward(self, roots: Int64s) -> tuple[float, float] | None:
        self.found.stay[self._of_roots(roots)] = True
        return self._backward_window(roots)

    def _backward_window(self, roots: Int64s) -> tuple[float, float] | None:
        """From where until where the backward of these calls allocates."""
        rows = self._of_roots(roots)
        if not len(rows):
            return None
        following = int(rows[-1]) + 1
        last = self._start[following] if following < len(self._start) else NEVER
        return float(self._start[rows[0]]), float(last)

    def _release_inputs(self, call: Int64s, end: float) -> None:
        """What was kept for the backward of these calls alone, their copies are kept for now."""
        window = self._backward_window(self._calls.root[call])
        if window is None:
            return
        kept = (self._start < self._start[call[0]]) & (self._free >= window[0])
        kept &= (self._free <= window[1]) & self._float32
        self.found.free[kept] = np.minimum(self.found.free[kept], end)

    def _cast_back(self, row: int, end: float) -> None:
        """A row that is the cast result from now on, and was float32 before."""
        self.found.stay[row] = False
        self.found.add(row, int(self._size[row]), float(before(self._start[row])), end)

    def _cast_after(self, row: int) -> None:
        """A gradient that is cast when all else of its node has gone: before what comes next."""
        if row + 1 == len(self._start):
            return
        place = float(before(self._start[row + 1]))
        if place < self._free[row]:
            self.found.add(row, int(self._size[row]) // 2, place, float(self._free[row]))
            self.found.free[row] = place + 0.125

    def _crosses_backward(self, row: int) -> bool:
        return bool(self._next_backward(row) <= self._free[row])

    def _next_backward(self, row: int) -> float:
        place = np.searchsorted(self._backward_starts, self._start[row])
        return float(self._backward_starts[place]) if place < len(self._backward_starts) else NEVER

    def _replaced(self, row: int, size: int) -> float:
        """Where the module around has made a tensor of this size that takes the input's place."""
        parent = self._calls.module.text(row).rpartition(".")[0]
        limit = self._next_backward(row)
        for later in range(row + 1, len(self._start)):
            if self._start[later] >= limit:
                break
            if self._size[later] == size and self._calls.module.text(later) == parent:
                return float(after(self._start[later]))
        return float(after(self._start[row]))

    def _input_of(self, row: int, size: int) -> int | None:
        """The newest tensor of a size that is there when a row is allocated."""
        alive = (self._start < self._start[row]) & (self._free > self._start[row]) & self._float32
        rows = np.flatnonzero(alive & (self._size == size))
        if len(rows):
            return int(rows[-1])
        outputs = np.flatnonzero(alive & equals(self._requests.rows, "category", "output"))
        return int(outputs[self._size[outputs].argmax()]) if len(outputs) else None

    def _larger_input_of(self, row: int) -> int | None:
        """The newest tensor that the row's bytes divide."""
        size = int(self._size[row])
        for earlier in range(row - 1, max(row - 50, -1), -1):
            large = self._size[earlier] > size and self._size[earlier] % size == 0
            if large and self._free[earlier] > self._start[row] and self._float32[earlier]:
                return earlier
        return None

    def _after_steps(self) -> list[Int64s]:
        """What is computed between a model's call and the backward that follows it."""
        rows = []
        own = np.flatnonzero(self._calls.source.fit(lambda text: text.startswith("loss_utils.py")))
        own = own[self._forward[own]]
        rows += _runs(integers(self._requests.rows, "step", missing=NONE)[own], own)
        if not len(self._backward_starts):
            return rows
        outside = self._forward & (self._calls.module.codes == NONE)
        begins, ends = [], []
        for group in self._requests.trace.datasets["steps"].row_groups(self._requests.process.key):
            table = group.read(["start_seq", "end_seq"])
            begins += integers(table, "start_seq").tolist()
            ends += [end for end in table["end_seq"].to_pylist() if end is not None]
        begins.sort()
        for end in sorted(ends):
            place = np.searchsorted(self._backward_starts, end)
            if place == len(self._backward_starts):
                break
            limit = float(self._backward_starts[place])
            later = np.searchsorted(begins, end)
            if later < len(begins):
                limit = min(limit, begins[later])
            window = np.flatnonzero(outside & (self._start >= end) & (self._start < limit))
            if len(window):
                rows.append(window)
        return rows


def _runs(keys: Int64s, rows: Int64s) -> list[Int64s]:
    """Rows, split where the key changes."""
    if not len(rows):
        return []
    return np.split(rows, np.flatnonzero(np.diff(keys)) + 1)
