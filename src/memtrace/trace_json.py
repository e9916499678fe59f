"""JSON in the columns of a trace, which may be of anyone's making."""

from __future__ import annotations

import json
from typing import Any


def parsed(text: str | None) -> Any:
    """What it says; None where there is none, or no JSON."""
    try:
        return json.loads(text or "null")
    except (ValueError, RecursionError):
        return None


def parsed_object(text: str | None) -> dict[str, Any]:
    """Of an object its members; empty where there is none."""
    found = parsed(text)
    return found if isinstance(found, dict) else {}
