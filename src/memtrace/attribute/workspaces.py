"""Workspaces that torch keeps for cuBLAS and cuBLASLt, one for each handle and stream.

torch allocates one in the middle of a matrix product, after the product's result, the first time
that a thread computes on a stream, and keeps it until the process ends or clears all of them
(ATen/cuda/CublasHandlePool.cpp). Operator, module and stack are the product's own. So the proof is
this: the call is of an operator that has one result; memory that outlives the call was allocated
in it before; this outlives the call as well. Sizes are those that torch chooses: the default by
the device, and what CUBLAS_WORKSPACE_CONFIG and CUBLASLT_WORKSPACE_SIZE are set to in practice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from memtrace.attribute.calls import Calls
from memtrace.attribute.columns import NEVER, NONE, Columns, Int64s, places_of
from memtrace.dataset import Part, row_groups_of

KIB = 1024
#: Operators whose kernels are cuBLAS's or cuBLASLt's, and that return one tensor.
PRODUCTS = (
    "aten::mm", "aten::addmm", "aten::_addmm_activation", "aten::bmm", "aten::baddbmm",
    "aten::addbmm", "aten::mv", "aten::addmv", "aten::dot", "aten::vdot", "aten::linear",
    "aten::matmul", "aten::_int_mm", "aten::_scaled_mm", "aten::addmm_", "aten::baddbmm_",
)  # fmt: skip
#: cuBLAS's by device (:4096:2:16:8; Hopper and later, as :4096:8), older torch's, :16:8;
#: cuBLASLt's; AMD's two.
SIZES_BYTES = np.array(
    sorted(
        {
            (2 * 4096 + 8 * 16) * KIB, 8 * 4096 * KIB, 4096 * KIB, 8 * 16 * KIB, 1024 * KIB,
            128 * 1024 * KIB, 76 * 1024 * KIB,
        }
    ),
    np.int64,
)  # fmt: skip


class Candidates:
    """Allocations of a workspace's size in a product's call, gathered in one pass."""

    columns = ("size_bytes", "operator", "operator_call_id", "free_time_ns", "device")

    def __init__(self) -> None:
        self._found: list[Int64s] = []

    def look_at(self, columns: Columns) -> None:
        """Notes those of a row group."""
        of_size = places_of(SIZES_BYTES, columns.numbers("size_bytes")) != NONE
        if not of_size.any():
            return
        chosen = of_size & (columns.codes("operator", PRODUCTS) != NONE)
        chosen &= columns.codes("device", ["cpu"]) == NONE
        names = ("allocation_id", "operator_call_id", "alloc_seq", "free_time_ns")
        rows = np.stack([columns.numbers(name)[chosen] for name in names])
        self._found.append(rows[:, rows[1] != NEVER])

    def workspaces(self, allocations: Sequence[Part], calls: Calls) -> Int64s:
        """Ids of those that are workspaces, sorted."""
        if not sum(rows.shape[1] for rows in self._found):
            return np.empty(0, np.int64)
        ids, call_ids, born, free_time_ns = np.concatenate(self._found, axis=1)
        of_calls, place = np.unique(call_ids, return_inverse=True)
        ends = calls.find(of_calls)["end_time_ns"]
        # NEVER, an end that is not known: the process died in the call, or the span was lost.
        outlives = (free_time_ns > ends[place]) | (free_time_ns == NEVER)
        first = _first_lasting(of_calls, ends, allocations, calls)
        return np.sort(ids[outlives & (first[place] < born)])


def _first_lasting(
    of_calls: Int64s, ends: Int64s, allocations: Sequence[Part], calls: Calls
) -> Int64s:
    """The first birth in each call of memory that outlives it; NEVER: there is none."""
    first = np.full(len(of_calls), NEVER, np.int64)
    for group in row_groups_of(allocations):
        columns = Columns.read(group, ["operator_call_id", "alloc_seq", "free_time_ns"])
        place = places_of(of_calls, columns.numbers("operator_call_id"))
        rows = np.flatnonzero(place != NONE)
        free_time_ns = columns.numbers("free_time_ns")[rows]
        lasting = rows[(free_time_ns > ends[place[rows]]) | (free_time_ns == NEVER)]
        np.minimum.at(first, place[lasting], columns.numbers("alloc_seq")[lasting])
    # The result may have been allocated by a call of a factory.
    callers, starts = calls.made_inside(of_calls)
    np.minimum.at(first, places_of(of_calls, callers), starts)
    return first
