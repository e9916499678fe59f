"""torch's own reader of snapshots, of whichever torch is installed, without importing torch.

The CUDA build cannot be imported where there is no CUDA; this file of it needs none.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any


def load() -> Any:
    """The module torch.cuda._memory_viz."""
    torch = importlib.util.find_spec("torch")
    assert torch is not None
    assert torch.origin is not None
    path = Path(torch.origin).parent / "cuda" / "_memory_viz.py"
    spec = importlib.util.spec_from_file_location("torch_memory_viz", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
