"""The settings that matter, each replayed, and which line of PYTORCH_ALLOC_CONF would help."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from memtrace.errors import MemtraceError
from memtrace.replay.conf import AllocatorConf, parse_conf
from memtrace.replay.device import Device
from memtrace.replay.engine import Replayer, Run, verify
from memtrace.replay.requests import Requests

#: The simplest first: of two that reserve the same, the earlier is recommended.
CONFS = (
    "",
    "expandable_segments:True",
    "max_split_size_mb:512",
    "max_split_size_mb:256",
    "max_split_size_mb:128",
    "max_split_size_mb:64",
    "max_split_size_mb:32",
    "large_segment_size_mb:12",
    "large_segment_size_mb:64",
    "roundup_power2_divisions:4",
    "roundup_power2_divisions:16",
    "expandable_segments:True,large_segment_size_mb:12",
)
_THREADS = 2


@dataclass(frozen=True)
class Tried:
    """One setting. `conf` None: the recording's own; `runs` as of Replay."""

    conf: AllocatorConf | None
    runs: tuple[Run, ...]

    @property
    def reserved_bytes(self) -> int:
        """The most that is predicted to be reserved."""
        return max(run.peaks["reserved"].total_bytes for run in self.runs)

    @property
    def completes(self) -> bool:
        return all(run.completes for run in self.runs)

    @property
    def retries(self) -> int:
        return max(run.retries for run in self.runs)


@dataclass(frozen=True)
class Sweep:
    """Every setting that was tried.

    Attributes:
        own: the recording's own settings.
        tried: CONFS, in that order, without those that torch refuses beside the program's own.
    """

    requests: Requests
    device: Device
    own: Tried
    tried: tuple[Tried, ...]

    @property
    def best(self) -> Tried | None:
        """What reserves least of all that completes; None: nothing is better than what was."""
        found = [one for one in self.tried if one.completes]
        if not found:
            return None
        best = min(found, key=lambda one: (one.reserved_bytes, one.retries))
        if self.own.completes and best.reserved_bytes >= self.own.reserved_bytes:
            return None
        return best

    @property
    def saved_bytes(self) -> int:
        """By how much less is reserved with the best setting; 0: none is, or the own fail."""
        best = self.best
        if best is None or not self.own.completes:
            return 0
        return self.own.reserved_bytes - best.reserved_bytes


def sweep(
    requests: Requests,
    *,
    device: Device | None = None,
    memory_fraction: float | None = None,
    confs: tuple[str, ...] = CONFS,
) -> Sweep:
    """Each setting on the same device, on two threads.

    Raises:
        MemtraceError: there is no caching allocator of the device, or its size is not known.
    """
    replayer = Replayer(requests, device=device)

    def attempt(text: str | None) -> Tried | None:
        conf = None if text is None else parse_conf(text)
        try:
            return Tried(conf, replayer.both(conf, memory_fraction=memory_fraction))
        except MemtraceError:  # what the program sets itself does not go with it
            return None

    with ThreadPoolExecutor(_THREADS) as pool:
        own, *tried = pool.map(attempt, [None, *confs])
    assert own is not None
    if device is None and memory_fraction is None and not requests.changed:
        verification = verify(requests)
        if verification.divergence is None:
            own = Tried(None, (verification.run,))
    return Sweep(requests, replayer.device, own, tuple(one for one in tried if one is not None))
