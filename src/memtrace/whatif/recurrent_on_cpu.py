"""LSTMs in half precision on a CPU.

In float32 oneDNN computes a layer at once. In bfloat16 too (torch 2.13, aten/src/ATen/native/
mkldnn/RNN.cpp): its workspace holds states of half the size and their gradients in float32, and
the backward computes every gradient in float32; autograd casts it. In float16 there is no backward
of oneDNN's, and a forward for some CPUs only: torch computes step by step (RNN.cpp beside it).

| | what a step of `width` states keeps for the backward, step by step |
| --- | --- |
| gates | 4 x width |
| cell, its tanh, state | width each |
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memtrace.analyse.counters import Int64s
from memtrace.replay.requests import Requests, after, before
from memtrace.whatif.cpu_kernels import CpuKernels
from memtrace.whatif.precision_change import PrecisionChange, runs

LAYER = "aten::mkldnn_rnn_layer"
_BACKWARD = "aten::mkldnn_rnn_layer_backward"
_FLOAT, _HALF = 4, 2
_GATES, _KEPT = 4, 7
_PAGE = 4096
#: The backward's results, in order: gradients of the input, of both states, of both weights and of
#: the bias; and its last allocations: both weights and the bias as oneDNN lays them, its scratch.
_RESULTS, _LAST = 6, 4
_CAST = (0, 3, 4, 5)
#: Rows that are looked through for what joins two directions.
_NEAR = 40
_IN_ONE_PIECE = frozenset({"aten::clone", "aten::zeros_like", "aten::add"})


@dataclass(frozen=True)
class _Layer:
    """Of one layer and direction: elements of a step's input and state, of a batch, and steps."""

    inputs: int
    width: int
    batch: int
    steps: int

    @property
    def states(self) -> int:
        """Elements of the states of all steps."""
        return self.steps * self.batch * self.width

    def scratch_bytes(self) -> int:
        """The gates of all steps but one: of a kernel that computes them at once."""
        line = _line(_GATES * self.width, _FLOAT)
        return (self.steps - 1) * self.batch * line * _FLOAT

    def states_bytes(self, element_bytes: int) -> int:
        """The states and cells that the forward goes through, from before the first step on."""
        line = _line(max(self.inputs, self.width), element_bytes)
        each = 2 * (self.steps + 1) * self.batch * element_bytes
        return _pages(each * line) + _pages(each * self.width)

    def workspace_bytes(self, element_bytes: int) -> int:
        """Of a training forward (oneDNN 3.12, src/cpu/rnn/rnn_utils.cpp): gates, states, their
        gradients in float32."""
        of_steps = self.steps * self.batch * element_bytes
        line = _line(max(self.inputs, self.width), _FLOAT)
        each = 2 * (self.steps + 1) * self.batch * _FLOAT
        return (
            _pages(of_steps * _line(_GATES * self.width, element_bytes))
            + _pages(of_steps * _line(self.width, element_bytes))
            + self.states_bytes(element_bytes)
            + 2 * _pages(each * line)
            + _pages(each * self.width)
        )


def recur(change: PrecisionChange, dtype: str, kernels: CpuKernels) -> None:
    """Every layer's calls and their backward."""
    _Recurrence(change, dtype, kernels).apply()


class _Recurrence:
    def __init__(self, change: PrecisionChange, dtype: str, kernels: CpuKernels) -> None:
        self._change = change
        self._widths = _widths(change.requests)
        self._native = dtype not in kernels.dtypes
        self._native_training = self._native or dtype == "float16"
        rows = self._rows_of(_BACKWARD)
        self._backwards = [call for call in runs(change.calls.call[rows], rows) if len(call)]
        self._begins = change.requests.start[[int(call[0]) for call in self._backwards]]

    def apply(self) -> None:
        calls = self._change.calls
        rows = self._rows_of(LAYER)
        place: dict[int, int] = {}
        for call in runs(calls.call[rows], rows):
            first = int(call[0])
            inputs, width, directions = self._widths[calls.module.text(first)]
            root = int(calls.root[first])
            place[root] = place.get(root, -1) + 1
            # The second layer's input is the first one's output.
            self._forward(call, inputs if place[root] < directions else width * directions, width)
        for call in self._backwards:
            self._backward(call, self._widths[calls.module.text(int(call[0]))][1])

    def _rows_of(self, operator: str) -> Int64s:
        calls = self._change.calls
        return np.flatnonzero(calls.operator.are({operator}) & calls.module.are(self._widths))

    def _forward(self, call: Int64s, inputs: int, width: int) -> None:
        change = self._change
        result, state, last = int(call[0]), int(call[1]), int(call[-1])
        batch = change.size(state) // (_FLOAT * width)
        if len(call) < 4 or not batch:
            return
        layer = _Layer(inputs, width, batch, change.size(result) // change.size(state))
        workspace = int(call[3])
        trained = bool(change.free[workspace] > change.passes.next_start(last))
        if trained and layer.workspace_bytes(_FLOAT) != change.size(workspace):
            return  # another oneDNN: what it does in half precision is not known
        change.count("LSTM layers")
        if self._native_training if trained else self._native:
            self._step_by_step(call, layer, trained=trained)
        elif trained:
            change.resize(workspace, layer.workspace_bytes(_HALF))
            self._shrink_scratch(last, layer)
        else:
            rest = max(change.size(last) - layer.states_bytes(_FLOAT), 0)
            change.resize(last, rest + layer.states_bytes(_HALF))

    def _step_by_step(self, call: Int64s, layer: _Layer, *, trained: bool) -> None:
        change, result = self._change, int(call[0])
        begin = float(before(change.requests.start[result]))
        end = float(change.free[call[-1]])
        change.gone[call[4 if trained else 3 :]] = True
        second, joined = self._joined(call)
        change.add(result, _GATES * layer.states * _HALF, begin, joined if second else end)
        if not trained:
            change.add(result, layer.states * _HALF, begin, joined)
            return
        workspace = int(call[3])
        change.resize(workspace, _KEPT * layer.states * _HALF)
        # It goes while the backward makes as much again; the result is not needed there.
        place = int(np.searchsorted(self._begins, change.free[workspace])) - 1
        if place >= 0 and self._begins[place] > end:
            kept = [workspace, result]
            change.free[kept] = np.minimum(change.free[kept], before(self._begins[place]))

    def _joined(self, call: Int64s) -> tuple[bool, float]:
        """Whether a call is of the second direction; and until where its steps' states are held:
        of two directions until their results are put together."""
        change, last = self._change, int(call[-1])
        directions = self._widths[change.calls.module.text(last)][2]
        near = np.arange(last + 1, min(last + _NEAR, len(change.requests)))
        near = near[change.calls.root[near] == change.calls.root[last]]
        cats = near[change.calls.operator.are({"aten::cat"})[near]]
        if directions == 1 or not len(cats):
            return False, float(change.free[last])
        between = near[near < cats[0]]
        second = not change.calls.operator.are({LAYER})[between].any()
        return second, float(after(change.requests.start[cats[0]]))

    def _backward(self, call: Int64s, width: int) -> None:
        if len(call) < _RESULTS + _LAST:
            return
        change = self._change
        results, inside = call[:_RESULTS], call[_RESULTS:]
        first, last = int(call[0]), int(call[-1])
        batch = change.size(int(results[1])) // (_FLOAT * width)
        inputs = change.size(int(results[3])) // (_FLOAT * _GATES * width)
        layer = _Layer(inputs, width, batch, change.size(first) // (_FLOAT * batch * inputs))
        begin, end = float(before(change.requests.start[first])), float(change.free[last])
        if self._native_training:
            change.gone[inside] = True
            self._back_step_by_step(results, layer, begin, end)
            return
        change.stay[results] = True
        change.stay[inside[-_LAST:-1]] = True
        change.gone[inside[:-_LAST]] = True  # weights for the backward: none, one or both
        change.add(first, _GATES * width * (inputs + width) * _HALF, begin, end)
        change.add(first, (layer.states + 2 * batch * width) * _FLOAT, begin, end)
        self._shrink_scratch(last, layer)
        for number, row in enumerate(results[list(_CAST)].tolist()):
            place = change.passes.next_start(last) - 0.5 + number / 32
            if place < change.free[row]:
                change.cast_at(row, place)

    def _back_step_by_step(self, results: Int64s, layer: _Layer, begin: float, end: float) -> None:
        """The most of three moments: the first step, when what the forward has kept is all there
        and the weight's gradient comes twice; the last, when all steps' gates have a gradient that
        is copied into one tensor; and what is made of that."""
        change = self._change
        own = sum(change.size(int(row)) for row in results) // 2
        states, weight = layer.states * _HALF, change.size(int(results[4])) // 2
        most = max(_KEPT * states + 2 * weight, 2 * _GATES * states + weight, _GATES * states + own)
        change.add(int(results[0]), most - own, begin, end)
        # oneDNN wants its gradients in one piece.
        near = np.arange(max(int(results[0]) - 4, 0), int(results[0]))
        of_node = change.calls.forward_root[near] == change.calls.forward_root[results[0]]
        change.gone[near[of_node & change.calls.operator.are(_IN_ONE_PIECE)[near]]] = True

    def _shrink_scratch(self, row: int, layer: _Layer) -> None:
        """In bfloat16 a training kernel computes the gates of one step at a time."""
        size = self._change.size(row) - layer.scratch_bytes()
        self._change.resize(row, size if size > 0 else self._change.size(row))


def _widths(requests: Requests) -> dict[str, tuple[int, int, int]]:
    """Module -> elements of its input and of its state, and directions."""
    found: dict[str, tuple[int, int, int]] = {}
    both = set()
    for group in requests.trace.datasets["names"].row_groups(requests.process.key):
        for name in group.read(["name", "kind", "shape"]).to_pylist():
            module, _, last = name["name"].rpartition(".")
            shape: list[int] = name["shape"] or []
            if name["kind"] != "weight" or len(shape) != 2:
                continue
            if last == "weight_ih_l0":
                found[module] = (shape[1], shape[0] // _GATES, 1)
            elif last == "weight_ih_l0_reverse":
                both.add(module)
    return {m: (w[0], w[1], 2 if m in both else 1) for m, w in found.items()}


def _line(elements: int, element_bytes: int) -> int:
    """Whole cache lines, and no multiple of 256 elements: those would share their place."""
    whole = 64 // element_bytes
    line = -(-elements // whole) * whole
    return line + whole if line % 256 == 0 else line


def _pages(size_bytes: int) -> int:
    return -(-size_bytes // _PAGE) * _PAGE
