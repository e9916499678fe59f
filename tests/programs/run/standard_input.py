"""Reads what it is given."""

from __future__ import annotations

import sys

print([line.upper() for line in sys.stdin], sys.stdin.closed)
