"""--sequence N: every call of the model with another sequence length."""

from __future__ import annotations

from memtrace.replay.requests import Requests
from memtrace.whatif.change import Change
from memtrace.whatif.scaling import scaled


def apply(requests: Requests, text: str) -> Change:
    """The requests with a sequence length of `text`."""
    return scaled(requests, "sequence", text)
