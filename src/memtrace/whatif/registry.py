"""Every what-if: its option, its one line of help, and where its code is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

from memtrace.replay.requests import Requests
from memtrace.whatif.change import Change


@dataclass(frozen=True)
class WhatIf:
    """`module` has `apply(requests, text) -> Change`; `text`: what the option was given.

    It raises a MemtraceError where the text is wrong, or the trace does not hold what it needs.
    """

    name: str
    metavar: str
    summary: str
    module: str

    def apply(self, requests: Requests, text: str) -> Change:
        """The requests as they would be."""
        change: Change = import_module(self.module).apply(requests, text)
        return change


#: In the order in which they are applied.
WHAT_IFS: tuple[WhatIf, ...] = (
    WhatIf(
        "dtype", "fp16|bf16", "Run in half precision: float32 tensors at half their bytes.",
        "memtrace.whatif.dtype",
    ),
    WhatIf(
        "quantize", "SCHEME",
        "Quantise linear layers: int8-weight-only, int8-dynamic, int4, nf4, fp8-weight-only.",
        "memtrace.whatif.quantize",
    ),
)  # fmt: skip


def apply_all(
    requests: Requests, asked: Mapping[str, Sequence[str]]
) -> tuple[Requests, tuple[Change, ...]]:
    """All that is asked for, one after the other; `asked`: name -> what the option was given."""
    changes = []
    for what_if in WHAT_IFS:
        for text in asked.get(what_if.name, ()):
            changes.append(what_if.apply(requests, text))
            requests = changes[-1].requests
    return requests, tuple(changes)
