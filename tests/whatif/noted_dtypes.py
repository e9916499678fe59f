"""Trains a model for a step and calls it, and writes down the dtype of each tensor that is made.

    python noted_dtypes.py MODEL TRUTH.json

TRUTH.json: [[address, when it was seen (CLOCK_MONOTONIC, ns), dtype], ...].
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from truth.models import CASES

Noted = list[tuple[int, int, str]]


class Notes(TorchDispatchMode):
    """Of every operator's results."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: Noted = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        now = time.monotonic_ns()
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().nbytes():
                place = tensor.untyped_storage().data_ptr()
                self.noted.append((place, now, str(tensor.dtype).removeprefix("torch.")))
        return result


def main() -> None:
    """One training step and one call."""
    torch.manual_seed(0)
    case = CASES[sys.argv[1]]
    model = case.build()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    with Notes() as notes:
        inputs = case.inputs()
        for _ in range(2):
            result = model(**inputs)
            result = result if isinstance(result, torch.Tensor) else result.logits
            result.float().pow(2).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            model.eval()(**inputs)
    Path(sys.argv[2]).write_text(json.dumps(notes.noted))


if __name__ == "__main__":
    main()
