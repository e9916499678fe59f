"""From the raw spool of a recording to the datasets of FORMAT.md.

Runs in a process of its own, after the watched program ended (or when a reader finds the spool of
a killed one). Everything is written under a temporary name first: whatever goes wrong, the spool
is still there and can be converted again.
"""

from __future__ import annotations

from memtrace.finalise.convert import FinaliseResult, finalise, recover

__all__ = ["FinaliseResult", "finalise", "recover"]
