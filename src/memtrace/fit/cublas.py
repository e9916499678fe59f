"""cuBLAS's workspaces: what a GPU holds for matrix products, and a CPU does not."""

from __future__ import annotations

import numpy as np

from memtrace.analyse.counters import Flags, equals
from memtrace.replay.requests import NEVER, Requests, before

#: Of each thread that multiplies matrices (torch's default, :4096:2:16:8), before compute
#: capability 9.0; from there on it is 32 MiB.
WORKSPACE_BYTES = 4096 * 1024 * 2 + 16 * 1024 * 8
#: cublasLt's, for products that add a bias; one for all threads.
LT_WORKSPACE_BYTES = 1 << 20
_WITH_BIAS = "aten::addmm"
_PRODUCTS = (_WITH_BIAS, "aten::mm", "aten::bmm", "aten::baddbmm", "aten::linear")


def with_workspaces(requests: Requests) -> Requests:
    """With what a GPU asks for at the first product of the forward, and of the backward thread."""
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


def _of(requests: Requests, operators: tuple[str, ...]) -> Flags:
    flags = np.zeros(len(requests), np.bool_)
    for operator in operators:
        flags |= equals(requests.rows, "operator", operator)
    return flags
