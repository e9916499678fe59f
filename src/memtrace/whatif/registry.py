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
        "drop-module", "PATH",
        "A module left out, such as h.11 or h.1?.",
        "memtrace.whatif.drop_module",
    ),
    WhatIf("batch", "N", "Every call with a batch of N.", "memtrace.whatif.batch"),
    WhatIf("sequence", "N", "Every call with a sequence length of N.", "memtrace.whatif.sequence"),
    WhatIf(
        "checkpoint-module", "PATH",
        "A module's forward done again in its backward, such as h.0 or h.*.",
        "memtrace.whatif.checkpoint_module",
    ),
    WhatIf(
        "optimizer", "NAME",
        "Another optimizer: sgd, momentum, adamw, adamw8bit; or sharded: zero2:8, over 8 ranks.",
        "memtrace.whatif.optimizer",
    ),
    WhatIf(
        "dtype", "fp16|bf16", "Run in half precision: float32 tensors at half their bytes.",
        "memtrace.whatif.dtype",
    ),
    WhatIf(
        "quantize", "SCHEME",
        "Quantise linear layers: int8-weight-only, int8-dynamic, int4, nf4, fp8-weight-only.",
        "memtrace.whatif.quantize",
    ),
    WhatIf(
        "pruned", "SHARE",
        "A share of the weights pruned, such as 50%.",
        "memtrace.whatif.pruned",
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
