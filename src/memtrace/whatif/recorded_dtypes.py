"""Which allocations are float32 and would be half as large in another dtype, and which are not.

What a name says of a tensor's dtype comes first; of memory without a name, the operator and the
size tell, by the rules of this table. The first rule that fits decides.

| rule | dtype |
| --- | --- |
| a name of another dtype than float32 | that one: it stays |
| the step count that an optimizer keeps | float32 for every dtype of the weight: it stays |
| a name of float32 | float32 |
| 8 bytes or less | a number of Python's, a loss, a count: it stays |
| no operator | not known: it stays |
| a module whose weights and buffers are all of another dtype, and what follows it | that one |
| outside forward and backward, the size of tensors that are all of another dtype | that one |
| STAYS: comparisons, counts, draws of integers, masks | int64, bool: it stays |
| WITH_INDICES: the larger of two results of a call, values and their indices | int64: it stays |
| native_dropout: the result with a quarter of the other's bytes | its mask, bool: it stays |
| attention: all but the first result | sums, states of random numbers: they stay |
| norms on CUDA: all but the largest result of a call | statistics, float32: it stays |
| matrix products on CUDA: what is not a call's first allocation | a workspace: it stays |
| an operator whose result is as its argument, right after an int64 or bool of its size | as that |
| any other operator | float32 |
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memtrace.analyse.counters import Flags, Int64s, integers
from memtrace.replay.requests import Requests
from memtrace.whatif.operator_calls import NONE, OperatorCalls

FLOAT32 = "float32"


def _aten(names: str) -> frozenset[str]:
    return frozenset(f"aten::{name}" for name in names.split())


#: Results that are int64 or bool whatever goes in.
STAYS = _aten(
    "arange randint randperm argmax argmin argsort nonzero bucketize searchsorted one_hot bincount"
    " eq ne lt le gt ge logical_and logical_or logical_not logical_xor isnan isinf isneginf"
    " isposinf isfinite isin all any tril triu bitwise_and bitwise_or bitwise_not bitwise_xor"
    " histc unique2 _unique2 __and__ __or__ isclose equal"
)
WITH_INDICES = _aten(
    "topk sort max min median mode kthvalue cummax cummin max_pool2d_with_indices"
    " max_pool3d_with_indices adaptive_max_pool2d fractional_max_pool2d"
)
_DROPOUT = _aten("native_dropout _fused_dropout")
_ATTENTION = _aten(
    "_scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_for_cpu"
    " _scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention"
    " _flash_attention_forward _efficient_attention_forward"
)
_NORMS = _aten(
    "native_layer_norm native_group_norm native_batch_norm cudnn_batch_norm _fused_rms_norm"
    " _batch_norm_with_update"
)
_PRODUCTS = _aten("mm addmm bmm baddbmm _addmm_activation")
_AS_ARGUMENT = _aten(
    "add sub mul cat clone contiguous expand repeat index index_select gather where masked_fill"
    " cumsum stack roll flip _to_copy sum div floor_divide remainder clamp abs neg rsub slice view"
    " pad constant_pad_nd"
)


@dataclass(frozen=True)
class RecordedDtypes:
    """Of each row.

    Attributes:
        float32: it is a float32 tensor.
        unknown: nothing is known of it.
        names: dtypes of weights as recorded, most bytes first.
    """

    float32: Flags
    unknown: Flags
    weights: tuple[str, ...]


def recorded_dtypes(requests: Requests, calls: OperatorCalls) -> RecordedDtypes:
    """By the table above."""
    names = _Names(requests)
    small = requests.size_bytes <= 8
    by_name = names.float32 | names.other
    no_operator = calls.operator.codes == NONE
    stays = small | no_operator | names.of_other_module(calls)
    stays |= calls.operator.are(STAYS)
    integer = calls.operator.are(STAYS) & ~small
    stays |= _indices(requests, calls) | _masks(requests, calls) | _sums_of_attention(calls)
    if not requests.on_cpu:
        stays |= _statistics(requests, calls) | _workspaces(calls)
    outside = ~calls.phase.are({"forward", "backward"})
    stays |= outside & np.isin(requests.size_bytes, names.other_sizes())
    integer |= names.other & ~small
    stays |= _as_arguments(requests, calls, integer)
    float32 = np.where(by_name, names.float32, ~stays)
    unknown = no_operator & ~small & ~by_name
    return RecordedDtypes(float32, unknown, names.weights)


class _Names:
    """What `names` says of the rows of requests."""

    def __init__(self, requests: Requests) -> None:
        columns = ["allocation_id", "name", "kind", "dtype"]
        groups = requests.trace.datasets["names"].row_groups(requests.process.key)
        tables = [group.read(columns) for group in groups]
        ids = integers(requests.rows, "allocation_id")
        order = np.argsort(ids)
        self.float32 = np.zeros(len(ids), np.bool_)
        self.other = np.zeros(len(ids), np.bool_)
        self.by_module: dict[str, set[str]] = {}
        weight_bytes: dict[str, int] = {}
        self.weights: tuple[str, ...] = ()
        for table in tables:
            found = integers(table, "allocation_id")
            places = np.searchsorted(ids, found, sorter=order)
            inside = places < len(ids)
            if not len(ids):
                break
            rows = np.where(inside, order[np.minimum(places, len(ids) - 1)], 0)
            for row, allocation, name, kind, dtype in zip(
                rows.tolist(), found.tolist(),
                *(table[column].to_pylist() for column in columns[1:]), strict=True,
            ):  # fmt: skip
                if dtype is None or ids[row] != allocation:
                    continue
                if kind in ("weight", "buffer"):
                    self.by_module.setdefault(name.rpartition(".")[0], set()).add(dtype)
                if kind == "weight":
                    size = int(requests.size_bytes[row])
                    weight_bytes[dtype] = weight_bytes.get(dtype, 0) + size
                count = kind == "optimizer_state" and name.endswith(".step")
                if dtype == FLOAT32 and not count:
                    self.float32[row] = True
                else:
                    self.other[row] = True
        self.float32 &= ~self.other
        self._size = requests.size_bytes
        self.weights = tuple(sorted(weight_bytes, key=lambda dtype: -weight_bytes[dtype]))

    def other_sizes(self) -> Int64s:
        """Bytes that named tensors have that are not float32, and none that is."""
        return np.setdiff1d(self._size[self.other], self._size[self.float32])

    def of_other_module(self, calls: OperatorCalls) -> Flags:
        """Rows of modules that hold tensors, none of them float32, and of what follows on them.

        An activation function, say, holds none: it computes in the dtype of the module before it.
        """
        floats = {
            path: FLOAT32 not in dtypes
            for path, dtypes in self.by_module.items()
            if any("float" in dtype for dtype in dtypes)
        }
        known = calls.module.fit(floats.__contains__)
        other = calls.module.fit(lambda path: floats.get(path, False))
        if not other.any():
            return other
        last = np.maximum.accumulate(np.where(known, np.arange(len(known)), NONE))
        made: Flags = other[last] & (last != NONE) & ~calls.phase.are({"optimizer"})
        return made


def _largest_of_call(requests: Requests, calls: OperatorCalls, chosen: Flags) -> Int64s:
    """Of each chosen row, the bytes of the largest row of its call."""
    _, call = np.unique(calls.call[chosen], return_inverse=True)
    largest = np.zeros(call.max(initial=-1) + 1, np.int64)
    np.maximum.at(largest, call, requests.size_bytes[chosen])
    return largest[call]


def _spread(chosen: Flags, values: Flags) -> Flags:
    found = np.zeros(len(chosen), np.bool_)
    found[chosen] = values
    return found


def _called(calls: OperatorCalls, operators: frozenset[str]) -> Flags:
    """Rows of these operators of which it is known in which call."""
    found: Flags = calls.operator.are(operators) & (calls.call != NONE)
    return found


def _indices(requests: Requests, calls: OperatorCalls) -> Flags:
    chosen = _called(calls, WITH_INDICES)
    largest = _largest_of_call(requests, calls, chosen)
    _, call, several = np.unique(calls.call[chosen], return_inverse=True, return_counts=True)
    return _spread(chosen, (requests.size_bytes[chosen] == largest) & (several[call] > 1))


def _masks(requests: Requests, calls: OperatorCalls) -> Flags:
    chosen = _called(calls, _DROPOUT)
    largest = _largest_of_call(requests, calls, chosen)
    return _spread(chosen, requests.size_bytes[chosen] * 4 == largest)


def _sums_of_attention(calls: OperatorCalls) -> Flags:
    chosen = _called(calls, _ATTENTION)
    first = _first_of_call(calls, chosen)
    return _spread(chosen, ~first)


def _statistics(requests: Requests, calls: OperatorCalls) -> Flags:
    chosen = _called(calls, _NORMS)
    largest = _largest_of_call(requests, calls, chosen)
    return _spread(chosen, requests.size_bytes[chosen] < largest)


def _workspaces(calls: OperatorCalls) -> Flags:
    chosen = _called(calls, _PRODUCTS)
    return _spread(chosen, ~_first_of_call(calls, chosen))


def _first_of_call(calls: OperatorCalls, chosen: Flags) -> Flags:
    ids = calls.call[chosen]
    first = np.zeros(len(ids), np.bool_)
    first[np.unique(ids, return_index=True)[1]] = True
    return first


def _as_arguments(requests: Requests, calls: OperatorCalls, integer: Flags) -> Flags:
    """Those made of integers: the line goes on with a result of the same size."""
    follows = calls.operator.are(_AS_ARGUMENT)
    found = integer.copy()
    size, source, module = requests.size_bytes, calls.source.codes, calls.module.codes
    # Numbers of Python's lie between a result and what is made of it.
    shown = np.flatnonzero(size > 8)
    for before, row in zip(shown[:-1].tolist(), shown[1:].tolist(), strict=True):
        if (
            follows[row]
            and found[before]
            and size[row] == size[before]
            and source[row] == source[before]
            and module[row] == module[before]
        ):
            found[row] = True
    made: Flags = found & follows
    return made
