"""What a GPU would be asked for by the same program, where that is known to differ from the CPU.

cuBLAS has workspaces. And torch's optimizers take all parameters at once on a GPU (`foreach`): of
Adam the square roots of all are there together, and are divided in place.
"""

from __future__ import annotations

import numpy as np

from memtrace.analyse.counters import Flags, Int64s, equals, integers
from memtrace.replay.requests import NEVER, Requests, before

#: Of each thread that multiplies matrices (torch's default, :4096:2:16:8), before compute
#: capability 9.0; from there on it is 32 MiB.
WORKSPACE_BYTES = 4096 * 1024 * 2 + 16 * 1024 * 8
#: cublasLt's, for products that add a bias; one for all threads.
LT_WORKSPACE_BYTES = 1 << 20
_WITH_BIAS = "aten::addmm"
_CUDNN = ("aten::mkldnn_convolution", "aten::_slow_conv2d_forward", "aten::mkldnn_rnn_layer")
_PRODUCTS = (_WITH_BIAS, "aten::mm", "aten::bmm", "aten::baddbmm", "aten::linear")


def as_on_gpu(requests: Requests) -> Requests:
    """Requests of the CPU as those of a GPU."""
    return _with_workspaces(_for_each_parameter(requests))


def kind_of_work(requests: Requests) -> str:
    """ "inference", "training", or "cudnn": what has workspaces that depend on its choices."""
    if _of(requests, _CUDNN).any():
        return "cudnn"
    return "training" if equals(requests.rows, "phase", "backward").any() else "inference"


def _with_workspaces(requests: Requests) -> Requests:
    """At the first product of the forward, and of the backward thread."""
    product = _of(requests, _PRODUCTS)
    backward = equals(requests.rows, "phase", "backward")
    wanted = [
        (product & ~backward, WORKSPACE_BYTES),
        (product & backward, WORKSPACE_BYTES),
        (_of(requests, (_WITH_BIAS,)), LT_WORKSPACE_BYTES),
    ]
    found = [(int(rows.argmax()), size) for rows, size in wanted if rows.any()]
    if not found:
        return requests
    like = np.array([row for row, _ in found])
    return requests.added(
        like,
        size_bytes=np.array([size for _, size in found], np.int64),
        start=before(requests.start[like]),
        free=np.full(len(like), NEVER),
        category="workspace",
    )


def _for_each_parameter(requests: Requests) -> Requests:
    """In each step of an optimizer: roots live to the last one's end, quotients are in place."""
    ours = equals(requests.rows, "phase", "optimizer") & equals(
        requests.rows, "category", "temporary"
    )
    roots = ours & _of(requests, ("aten::sqrt",))
    if not roots.any():
        return requests
    step = np.searchsorted(_optimizer_steps(requests), requests.start)
    free = requests.free.copy()
    for number in np.unique(step[roots]):
        of_step = roots & (step == number)
        free[of_step] = free[of_step].max()
    return requests.moved(free=free).chosen(~(ours & _of(requests, ("aten::div",))))


def _optimizer_steps(requests: Requests) -> Int64s:
    """Where steps of optimizers begin."""
    begins = [np.zeros(0, np.int64)]
    for group in requests.trace.datasets["marks"].row_groups(requests.process.key):
        table = group.read(["seq", "kind"])
        begins.append(integers(table, "seq")[equals(table, "kind", "optimizer_begin")])
    return np.sort(np.concatenate(begins))


def _of(requests: Requests, operators: tuple[str, ...]) -> Flags:
    flags = np.zeros(len(requests), np.bool_)
    for operator in operators:
        flags |= equals(requests.rows, "operator", operator)
    return flags
