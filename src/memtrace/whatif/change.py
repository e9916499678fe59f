"""What a what-if makes of requests, and what it takes for granted."""

from __future__ import annotations

from dataclasses import dataclass

from memtrace.replay.requests import Requests


@dataclass(frozen=True)
class Change:
    """Requests as they would be.

    Attributes:
        requests: the changed ones.
        what: in words, for the head of the answer: "float32 as bfloat16".
        assumptions: what it takes for granted, and what it leaves as it was; one line each.
    """

    requests: Requests
    what: str
    assumptions: tuple[str, ...] = ()
