"""torch's own memory history, as a context beside ours."""

from __future__ import annotations

import torch


class TorchHistory:
    """With Python stacks, as its documentation recommends it."""

    def __enter__(self) -> None:
        torch.cuda.memory._record_memory_history(
            enabled="all", context="all", stacks="python", max_entries=200_000
        )

    def __exit__(self, *error: object) -> None:
        torch.cuda.memory._record_memory_history(enabled=None)
