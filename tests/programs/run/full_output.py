"""Its standard output cannot be flushed: Python's own exit status is 120."""

from __future__ import annotations

print("text that nobody can take")
