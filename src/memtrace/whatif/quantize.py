"""What if the weights of the linear layers were quantised: packed weights, and kernels that unpack.

Which layers: modules of class nn.Linear, as torchao and bitsandbytes take them by default; an
embedding stays, and a head that shares its weight gets a packed copy besides. Inference only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from memtrace.analyse.counters import Flags, Int64s, equals, integers
from memtrace.errors import MemtraceError
from memtrace.replay.requests import Requests
from memtrace.whatif.change import Change
from memtrace.whatif.operator_calls import NONE, OperatorCalls
from memtrace.whatif.quantized_kernels import FEW_ROWS, RESULT, SCHEMES, Kernel, Scheme, Temporary

_LINEAR = frozenset({"Linear", "NonDynamicallyQuantizableLinear"})
_PRODUCTS = frozenset({"aten::addmm", "aten::mm", "aten::bmm", "aten::_addmm_activation"})
_ELEMENT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
#: Between two steps of a kernel: all of them lie between two events.
_STEP = 0.25 / 40


@dataclass(frozen=True)
class _Weight:
    """A weight of a linear layer: its row of requests, and its shape."""

    module: str
    row: int
    outputs: int
    inputs: int
    offset_bytes: int
    element_bytes: int
    bias: bool

    @property
    def size_bytes(self) -> int:
        return self.outputs * self.inputs * self.element_bytes


@dataclass
class _Added:
    """Rows that are added, by column."""

    like: list[int] = field(default_factory=list)
    size_bytes: list[int] = field(default_factory=list)
    start: list[float] = field(default_factory=list)
    free: list[float] = field(default_factory=list)

    def add(self, like: int, size_bytes: int, start: float, free: float) -> None:
        self.like.append(like)
        self.size_bytes.append(size_bytes)
        self.start.append(start)
        self.free.append(free)

    def to(self, requests: Requests, category: str | None = None) -> Requests:
        if not self.like:
            return requests
        return requests.added(
            np.array(self.like, np.int64),
            size_bytes=np.array(self.size_bytes, np.int64),
            start=np.array(self.start),
            free=np.array(self.free),
            category=category,
        )


def apply(requests: Requests, text: str) -> Change:
    """`text`: one of SCHEMES; int4:64 for groups of 64 weights.

    Raises:
        MemtraceError: no such scheme, a training, or no linear layer is known.
    """
    scheme = _scheme(text)
    calls = OperatorCalls(requests)
    if calls.phase.are({"backward", "optimizer"}).any():
        raise MemtraceError(f"--quantize {text}: for inference only, and this trace is a training")
    weights, shared = _weights(requests, calls)
    if not weights:
        raise MemtraceError(f"--quantize {text}: no weight of an nn.Linear is known in this trace")
    kernel = scheme.kernels["cpu" if requests.on_cpu else "cuda"]
    size, kept = _packed(requests, weights, shared, scheme, kernel)
    temporaries, called = _run(requests, calls, weights, scheme, kernel)
    changed = temporaries.to(kept.to(requests.resized(size)), "temporary")
    unused = np.zeros(len(changed), np.bool_)
    if not kernel.adds_bias:
        unused[: len(requests)] = _workspaces_of_biases(requests, calls, weights)
    return Change(
        requests=changed.chosen(~unused),
        what=f"weights as {text} ({scheme.library})",
        assumptions=_assumptions(requests, weights, shared, called, scheme, kernel),
    )


def _scheme(text: str) -> Scheme:
    name, colon, group = text.partition(":")
    scheme = SCHEMES.get(name)
    if scheme is None:
        raise MemtraceError(f"--quantize {text}: there are {', '.join(SCHEMES)}")
    if not colon:
        return scheme
    if name != "int4" or not group.isdecimal() or int(group) < 1:
        raise MemtraceError(f"--quantize {text}: a group of weights is given as int4:64")
    return replace(scheme, group=int(group))


def _weights(requests: Requests, calls: OperatorCalls) -> tuple[list[_Weight], set[int]]:
    """Of linear layers; and the places in this list of those that something else uses too."""
    classes = _classes(calls)
    ids = integers(requests.rows, "allocation_id").tolist()
    rows = {allocation: row for row, allocation in enumerate(ids)}
    columns = ["allocation_id", "name", "kind", "shape", "dtype", "offset_bytes"]
    groups = requests.trace.datasets["names"].row_groups(requests.process.key)
    named = [name for group in groups for name in group.read(columns).to_pylist()]
    named = [n for n in named if n["kind"] == "weight" and n["allocation_id"] in rows]
    names = {n["name"] for n in named}
    found: dict[str, _Weight] = {}
    others: set[tuple[int, int]] = set()
    for name in named:
        module, _, last = name["name"].rpartition(".")
        row, shape, offset = rows[name["allocation_id"]], name["shape"], name["offset_bytes"] or 0
        parent, _, own = module.rpartition(".")
        linear = classes.get(module) in _LINEAR
        linear |= own == "out_proj" and classes.get(parent) == "MultiheadAttention"
        each = _ELEMENT_BYTES.get(name["dtype"])
        if not linear or last != "weight" or len(shape or ()) != 2 or each is None:
            others.add((row, offset))
            continue
        outputs, inputs = shape
        if outputs * inputs * each > requests.size_bytes[row]:  # --dtype has halved it
            each //= 2
        bias = f"{module}.bias" in names
        found[module] = _Weight(module, row, outputs, inputs, offset, each, bias)
    weights = list(found.values())
    shared = {n for n, weight in enumerate(weights) if (weight.row, weight.offset_bytes) in others}
    return weights, shared


def _classes(calls: OperatorCalls) -> dict[str, str]:
    """Path of a module -> its class, of those that allocated something."""
    pairs = np.unique(np.stack([calls.module.codes, calls.module_class.codes]), axis=1)
    return {
        calls.module.texts[module]: calls.module_class.texts[of]
        for module, of in pairs.T.tolist()
        if NONE not in (module, of)
    }


def _packed(
    requests: Requests, weights: Sequence[_Weight], shared: set[int], scheme: Scheme, kernel: Kernel
) -> tuple[Int64s, _Added]:
    """Sizes of all rows, and what is kept besides: scales, and packed copies of what is shared."""
    size, added = requests.size_bytes.copy(), _Added()
    for place, weight in enumerate(weights):
        packed = scheme.packed_bytes(weight.outputs, weight.inputs)
        life = float(requests.start[weight.row]), float(requests.free[weight.row])
        if place in shared:
            added.add(weight.row, packed, *life)
        else:
            size[weight.row] += packed - weight.size_bytes
        shape = (weight.outputs, weight.inputs)
        added.add(weight.row, scheme.scales_bytes(kernel, shape, weight.element_bytes), *life)
    return size, added


def _run(
    requests: Requests,
    calls: OperatorCalls,
    weights: Sequence[_Weight],
    scheme: Scheme,
    kernel: Kernel,
) -> tuple[_Added, set[str]]:
    """What the kernel allocates in each call of each layer; and the layers that are called."""
    by_module = {weight.module: weight for weight in weights}
    rows = np.flatnonzero(calls.operator.are(_PRODUCTS) & calls.module.are(by_module))
    rows = rows[np.sort(np.unique(calls.root[rows], return_index=True)[1])]
    added, called = _Added(), set[str]()
    for row in rows.tolist():
        weight = by_module[calls.module.text(row)]
        first = weight.module not in called
        called.add(weight.module)
        number, rest = divmod(int(requests.size_bytes[row]), weight.outputs * weight.element_bytes)
        if rest:
            continue
        elements = {
            "weight": weight.outputs * weight.inputs,
            "packed": scheme.packed_bytes(weight.outputs, weight.inputs),
            "input": number * weight.inputs,
            "output": number * weight.outputs,
            "row": number,
        }
        for one in kernel.temporaries:
            if _is_made(one, weight, first) and (number <= FEW_ROWS or not one.few_rows):
                each = one.element_bytes or weight.element_bytes
                start, free = (
                    float(requests.start[row]) + (step - RESULT) * _STEP
                    for step in (one.born, one.dies)
                )
                added.add(row, elements[one.elements] * each, start, free)
    return added, called


def _workspaces_of_biases(
    requests: Requests, calls: OperatorCalls, weights: Sequence[_Weight]
) -> Flags:
    """cuBLASLt's workspace for products with a bias, where these layers alone had any."""
    products = calls.operator.are({"aten::addmm"})
    if requests.on_cpu or not calls.module.are({one.module for one in weights})[products].all():
        return np.zeros(len(requests), np.bool_)
    kept = equals(requests.rows, "category", "workspace")
    largest = requests.size_bytes[kept].max(initial=0)
    found: Flags = kept & products & (requests.size_bytes < largest)
    return found


def _is_made(one: Temporary, weight: _Weight, first: bool) -> bool:
    if one.bias is not None and one.bias != weight.bias:
        return False
    # A cast to two bytes is none where activations have two.
    cast = one.element_bytes == 2 and weight.element_bytes == 2
    return not cast and (first or not one.first_call)


def _assumptions(
    requests: Requests,
    weights: Sequence[_Weight],
    shared: set[int],
    called: set[str],
    scheme: Scheme,
    kernel: Kernel,
) -> tuple[str, ...]:
    linear = sum(weight.size_bytes for weight in weights)
    told = [
        f"quantised: {len(weights):,} weights of nn.Linear, {linear:,} B before; all else stays",
        "weights arrive packed: what quantising after loading takes is not counted",
    ]
    if shared:
        both = sum(weights[place].size_bytes for place in shared)
        told.append(f"shared with an embedding, so kept beside the packed copy: {both:,} B")
    uncalled = [weight.module for weight in weights if weight.module not in called]
    if uncalled:
        told.append(
            f"no product of their own was seen, so no temporaries of: {', '.join(uncalled[:3])}"
            + (f" and {len(uncalled) - 3:,} more" if len(uncalled) > 3 else "")
        )
    if scheme.note:
        told.append(scheme.note)
    if not kernel.verified:
        device = "the CPU" if requests.on_cpu else "CUDA"
        told.append(f"the kernel of {scheme.library} on {device} has not been verified by a run")
    return tuple(told)
