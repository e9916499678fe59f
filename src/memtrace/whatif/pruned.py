"""Unstructured pruning: zeros take as much memory as other numbers, and this says so."""

from __future__ import annotations

import re

import numpy as np

from memtrace.analyse.counters import Int64s
from memtrace.errors import MemtraceError, readable
from memtrace.replay.requests import Requests
from memtrace.whatif.change import Change
from memtrace.whatif.element_sizes import element_sizes
from memtrace.whatif.modules import flags_of

_SHARE = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*%?")
#: Of each number that is not zero, CSR keeps the column too.
_CSR_INDEX_BYTES = 8
_MIB = 2**20


def apply(requests: Requests, text: str) -> Change:
    """The requests as they are; `text`: the share of weights that are zero, 50% or 0.5."""
    zeros = _share(text)
    rows = _pruned(requests)
    if not len(rows):
        raise MemtraceError(f"the trace has no weights on {requests.device} to prune")
    size_bytes = requests.size_bytes[rows]
    whole = int(size_bytes.sum())
    elements = size_bytes // element_sizes(requests, rows, "weight")
    sparse = (1 - zeros) * float((size_bytes + elements * _CSR_INDEX_BYTES).sum())
    more, takes = 2 * whole / _MIB, sparse / whole
    return Change(
        requests,
        f"{zeros:.0%} of weights pruned",
        (
            f"a zero takes as much as any number: {whole / _MIB:.2f} MiB of weights stay as large",
            (
                f"torch.nn.utils.prune keeps a mask and a copy of each: {more:.2f} MiB more until "
                "prune.remove"
            ),
            f"as CSR they would take {sparse / _MIB:.2f} MiB, {takes:.2f} times as much as now",
            "memory is saved by leaving out layers or heads as a whole: --drop-module",
        ),
    )


def _share(text: str) -> float:
    found = _SHARE.fullmatch(text.strip())
    share = float(found[1]) / (100 if "%" in text else 1) if found else -1.0
    if not 0 < share < 1:
        raise MemtraceError(f"not a share of weights: {readable(text)} (such as 50%)")
    return share


def _pruned(requests: Requests) -> Int64s:
    """Weights of linear layers and convolutions; of all modules where there are none."""
    weight = flags_of(requests.rows, "category", lambda word: word == "weight")
    named = flags_of(
        requests.rows, "label", lambda word: word is not None and not word.endswith("bias")
    )
    usual = flags_of(
        requests.rows,
        "module_class",
        lambda word: word is not None and (word.endswith("Linear") or word.startswith("Conv")),
    )
    found = np.flatnonzero(weight & named & usual)
    return found if len(found) else np.flatnonzero(weight)
