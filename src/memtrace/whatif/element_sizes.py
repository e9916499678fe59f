"""How large an element of a tensor is, by the dtype that it was seen to have."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from memtrace.analyse.counters import Int64s, integers
from memtrace.replay.requests import Requests
from memtrace.whatif.modules import flags_of

_USUAL_BYTES = 4
_BYTES = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "complex64": 8, "complex128": 16,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1,
    "float8_e4m3fn": 1, "float8_e5m2": 1,
}  # fmt: skip


def element_sizes(requests: Requests, rows: Int64s, kind: str) -> Int64s:
    """Bytes of an element of what lies in each of these rows; 4 where that is not known.

    Args:
        kind: what the names of the tensors are of: weight, gradient, …
    """
    ids = integers(requests.rows, "allocation_id")[rows]
    order = np.argsort(ids)
    found = np.full(len(rows), _USUAL_BYTES, np.int64)
    for group in requests.trace.datasets["names"].row_groups(requests.process.key):
        table = group.read(["allocation_id", "kind", "dtype"])
        table = table.filter(pa.array(flags_of(table, "kind", lambda word: word == kind)))
        named = integers(table, "allocation_id")
        places = np.searchsorted(ids[order], named)
        known = places < len(ids)
        known[known] = ids[order][places[known]] == named[known]
        sizes = [_BYTES.get(word or "", _USUAL_BYTES) for word in table["dtype"].to_pylist()]
        found[order[places[known]]] = np.array(sizes, np.int64)[known]
    return found
