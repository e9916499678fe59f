"""Questions about a trace: pure functions from a Trace to a frozen value; no I/O, no printing."""

from __future__ import annotations
