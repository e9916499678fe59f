"""What memory can be. Where two fit, the earlier (FORMAT.md)."""

from __future__ import annotations

CATEGORIES = (
    "weight", "buffer", "gradient", "optimizer_state", "kv_cache", "input", "output", "activation",
    "workspace", "temporary", "other",
)  # fmt: skip
