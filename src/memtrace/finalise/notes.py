"""What a process said of itself: JSON notes, merged in the order they were written."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from memtrace.errors import encodable


class Notes(dict[str, Any]):
    """Merged notes; a value of an unexpected type reads as missing (the spool may be damaged)."""

    def text(self, key: str) -> str | None:
        value = self.get(key)
        return encodable(value) if isinstance(value, str) else None

    def integer(self, key: str) -> int | None:
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 1 << 63:
            return None
        return value

    def flag(self, key: str) -> bool | None:
        value = self.get(key)
        return value if isinstance(value, bool) else None

    def json(self, key: str) -> str | None:
        """The value as JSON text, None when there is none."""
        value = self.get(key)
        return None if value is None else json.dumps(value)


def merge_notes(texts: Iterable[bytes]) -> Notes:
    """Later notes replace what earlier ones said, member by member."""
    merged = Notes()
    for text in texts:
        try:
            note = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if not isinstance(note, dict):
            continue
        for key, value in note.items():
            known = merged.get(key)
            if isinstance(known, dict) and isinstance(value, dict):
                merged[key] = {**known, **value}
            else:
                merged[key] = value
    return merged
