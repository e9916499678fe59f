"""Requests replayed by the caching allocator: verified against the recording, or predicted.

Best fit takes the lower address among equal blocks, and which addresses the driver gives another
run is not known. So a prediction is made twice, with addresses that rise and that fall; where the
two differ it is a range.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from memtrace.analyse.allocator_settings import allocator_settings
from memtrace.analyse.counters import MEASURES, equals, highest, integers
from memtrace.analyse.owners import AskedBy
from memtrace.analyse.stack import stacks_by_id
from memtrace.analyse.target import total_bytes as told_bytes
from memtrace.errors import MemtraceError
from memtrace.replay.conf import AllocatorConf, parse_conf
from memtrace.replay.device import Device, recorded_device
from memtrace.replay.outcome import Outcome, serve_on_host
from memtrace.replay.requests import Failure, Requests
from memtrace.replay.stream import Stream, native_stream

Addresses = Literal["recorded", "rising", "falling"]


@dataclass(frozen=True)
class Peak:
    """The most of a measure, and the place that first reached it."""

    total_bytes: int
    place: float


@dataclass(frozen=True)
class Failed:
    """A request that fails in a replay, or that had failed in the recording and does not here.

    Attributes:
        request: its number among all that is replayed, from 0.
        row: of the requests; -1 where it failed in the recording.
        size_bytes: asked for.
    """

    request: int
    place: float
    row: int
    size_bytes: int


@dataclass(frozen=True)
class Run:
    """One replay.

    Attributes:
        peaks: by measure (analyse.counters.MEASURES).
        last_bytes: the same after the last request.
        segments: that were held from the driver when reserved memory was at its peak (a
            reservation counts as one); unused_bytes: reserved and not active then, and
            largest_unused_bytes: the largest piece of that.
        retries: how often all cached memory went back to the driver before it gave some.
        failed: requests that failed and had not in the recording; the replay ends at the first.
        repeated_failures: how many failed here as in the recording.
        passed: requests that had failed in the recording, and did not here.
        early_waits: retries that had to wait for frees which the recording completes later.
    """

    peaks: dict[str, Peak]
    last_bytes: dict[str, int]
    segments: int
    unused_bytes: int
    largest_unused_bytes: int
    retries: int
    failed: tuple[Failed, ...]
    repeated_failures: int
    passed: tuple[Failed, ...]
    early_waits: int

    @property
    def completes(self) -> bool:
        return not self.failed


def asked_by(requests: Requests, failed: Failed) -> AskedBy | None:
    """Who makes a request that fails in a replay; None: it had failed in the recording."""
    if failed.row < 0:
        return None
    (row,) = requests.rows.slice(failed.row, 1).to_pylist()
    stacks = stacks_by_id(requests.trace, requests.process.key, [row["stack_id"] or 0])
    told = ("operator", "top_operator", "forward_operator", "module", "module_class", "source")
    return AskedBy(**{name: row[name] for name in told}, stack=stacks.get(row["stack_id"] or 0, ()))


@dataclass(frozen=True)
class SegmentEvent:
    """What the allocator and the driver exchanged; `action` as in `events`."""

    action: str
    address: int
    size_bytes: int


@dataclass(frozen=True)
class Divergence:
    """Where a replay under the recording's own settings left it.

    Attributes:
        place: of the request.
        predicted, recorded: the first two that differ; None: none came. Both None: an allocation
            was put at another address.
    """

    place: float
    predicted: SegmentEvent | None
    recorded: SegmentEvent | None


@dataclass(frozen=True)
class Verification:
    """The recording, replayed under its own settings.

    Attributes:
        compared: segment events that were reproduced one for one: order, address, size, stream.
        divergence: None: all of them, and every allocation lay where it had.
    """

    run: Run
    compared: int
    divergence: Divergence | None


@dataclass(frozen=True)
class Replay:
    """What became of requests.

    Attributes:
        conf: the settings; None: the recording's own, as they changed in it.
        runs: with addresses that rise and that fall; one, where it is the verified recording.
        verification: of the recording itself; None: the requests were changed.
        recorded: the recording's own peaks, by measure, in bytes.
        caveats: where this is not exact, and why; one line each.
    """

    requests: Requests
    conf: AllocatorConf | None
    device: Device
    runs: tuple[Run, ...]
    verification: Verification | None
    recorded: dict[str, int] = field(default_factory=dict)
    caveats: tuple[str, ...] = field(default=())

    @property
    def as_recorded(self) -> bool:
        return len(self.runs) == 1

    @property
    def completes(self) -> bool:
        return all(run.completes for run in self.runs)

    def peak(self, of: str) -> tuple[Peak, Peak]:
        """The least and the most that it is predicted to be."""
        found = sorted((run.peaks[of] for run in self.runs), key=lambda peak: peak.total_bytes)
        return found[0], found[-1]

    @property
    def first_failed(self) -> Failed | None:
        """The first request that fails in any of the runs."""
        found = [run.failed[0] for run in self.runs if run.failed]
        return min(found, key=lambda one: one.request, default=None)


class Replayer:
    """Replays the requests of one device, as often as one likes.

    Raises:
        MemtraceError: there is no caching allocator of the device, or its size is not known.
    """

    def __init__(self, requests: Requests, *, device: Device | None = None) -> None:
        check_replayable(requests)
        self.requests = requests
        self.device = device or recorded_device(requests)
        self.stream = native_stream(requests, recorded=False)

    def run(
        self,
        conf: AllocatorConf | None = None,
        *,
        device: Device | None = None,
        memory_fraction: float | None = None,
        addresses: Addresses = "rising",
    ) -> Run:
        """One replay. `memory_fraction`: throughout; else as recorded, and as `conf` begins."""
        found = self.native(
            conf, device=device, memory_fraction=memory_fraction, addresses=addresses
        )
        return run_of(found, self.stream)

    def both(
        self,
        conf: AllocatorConf | None = None,
        *,
        device: Device | None = None,
        memory_fraction: float | None = None,
    ) -> tuple[Run, Run]:
        """With addresses that rise, and that fall."""
        rising, falling = (
            self.run(conf, device=device, memory_fraction=memory_fraction, addresses=addresses)
            for addresses in ("rising", "falling")
        )
        return rising, falling

    def native(
        self,
        conf: AllocatorConf | None,
        *,
        device: Device | None = None,
        memory_fraction: float | None = None,
        addresses: Addresses = "rising",
        keeps_totals: bool = False,
    ) -> dict[str, Any]:
        """What the native side tells of one replay."""
        device = device or self.device
        stream = self.stream
        return stream.native.replay(
            addresses=addresses,
            total_bytes=device.total_bytes,
            capacity_bytes=device.capacity_bytes,
            first_settings=stream.first_settings if conf is None else conf.settings_text(),
            settings=None if conf is None else settings_under(conf, stream),
            first_fraction=stream.first_fraction if conf is None else conf.memory_fraction,
            fraction=memory_fraction,
            keeps_totals=keeps_totals,
        )


def settings_under(conf: AllocatorConf, stream: Stream) -> list[str]:
    """What each recorded change of settings would be, had the program been started with others.

    The first one recorded is what it was started with. What the program sets itself stays so.
    """
    current, found = conf, []
    for text in stream.settings_conf:
        current = conf if text == stream.settings_conf[0] else current.changed_by(parse_conf(text))
        found.append(current.settings_text())
    return found


def replay(
    requests: Requests,
    *,
    conf: AllocatorConf | None = None,
    device: Device | None = None,
    memory_fraction: float | None = None,
) -> Replay:
    """Requests under other settings, on another device; by default as they were recorded.

    Args:
        conf: by default the recording's own settings, as they changed in it.
        device: by default the recording's.
        memory_fraction: that the process may reserve, throughout; by default as recorded.

    Raises:
        MemtraceError: there is no caching allocator of the device, or its size is not known.
    """
    check_replayable(requests)
    verification = None
    if not requests.changed:
        # Of a trace that does not tell the size of its device, any will do: all of it was given.
        size = None if device is None else device.total_bytes
        verification = verify(requests, total_bytes=size)
    as_recorded = conf is None and device is None and memory_fraction is None
    runs: tuple[Run, ...]
    if verification is not None and as_recorded and verification.divergence is None:
        device, runs = recorded_device(requests), (verification.run,)
    else:
        replayer = Replayer(requests, device=device)
        device = replayer.device
        runs = replayer.both(conf, memory_fraction=memory_fraction)
    found = Replay(requests, conf, device, runs, verification, _recorded_peaks(requests))
    return replace(found, caveats=tuple(caveats_of(found)))


def _recorded_peaks(requests: Requests) -> dict[str, int]:
    key, device = requests.process.key, requests.device
    peaks = ((of, highest(requests.trace, process=key, device=device, of=of)) for of in MEASURES)
    return {of: peak.total_bytes for of, peak in peaks if peak is not None}


def verify(
    requests: Requests, *, device: Device | None = None, total_bytes: int | None = None
) -> Verification:
    """The recording under its own settings, each event held against the recorded one.

    Args:
        device: by default the driver gives what it gave; with a device it gives up to its capacity.
        total_bytes: of the recorded device, where the trace does not tell.

    Raises:
        ValueError: the requests are not those of the recording.
    """
    total = told_bytes(requests.process, requests.device) or total_bytes
    if total is None:
        total = recorded_device(requests).total_bytes
    stream = native_stream(requests, recorded=True)
    found = stream.native.replay(
        addresses="recorded",
        total_bytes=total,
        capacity_bytes=None if device is None else device.capacity_bytes,
        first_settings=stream.first_settings,
        first_fraction=stream.first_fraction,
    )
    told = found["divergence"]
    divergence = None
    if told is not None:
        at = min(told["request"], len(stream.places) - 1)
        divergence = Divergence(
            float(stream.places[at]) if at >= 0 else 0.0,
            _segment_event(told["predicted"]),
            _segment_event(told["recorded"]),
        )
    return Verification(run_of(found, stream), found["compared"], divergence)


def serve(
    requests: Requests, *, conf: AllocatorConf | None = None, device: Device | None = None
) -> Outcome:
    """Requests as the allocator of their device serves them, with all curves.

    On the CPU every request gets what it asks for. Of the two address orders, the one that reserves
    more.

    Raises:
        MemtraceError: the trace does not tell how large the device is.
    """
    if requests.on_cpu:
        return serve_on_host(requests)
    replayer = Replayer(requests, device=device)
    runs = {a: replayer.run(conf, addresses=a) for a in _BOTH}
    worse = max(_BOTH, key=lambda a: (len(runs[a].failed), runs[a].peaks["reserved"].total_bytes))
    native = replayer.native(conf, addresses=worse, keeps_totals=True)
    stream = replayer.stream
    failed = tuple(
        Failure(one.place, one.size_bytes, 0, "default", None) for one in runs[worse].failed
    )
    both = Replay(requests, conf, replayer.device, tuple(runs.values()), None)
    served = stream.places
    totals = native["totals"]
    if runs[worse].failed:  # nothing is known of what comes after it
        end = runs[worse].failed[0].request + 1
        served, totals = served[:end], {name: total[:end] for name, total in totals.items()}
    return Outcome(
        requests=requests,
        block_bytes=native["block_bytes"][: len(requests)],
        places=served,
        curves=totals,
        failures=failed,
        caveats=tuple(caveats_of(both)),
    )


_BOTH: tuple[Addresses, Addresses] = ("rising", "falling")


def check_replayable(requests: Requests) -> None:
    """Refuses what has no caching allocator.

    Raises:
        MemtraceError: says why.
    """
    if requests.on_cpu:
        error = requests.process.row.get("hook_error")
        raise MemtraceError(
            "the CPU has no caching allocator to replay: what is allocated is what was asked for"
            + (f" ({error})" if error else "")
        )
    if allocator_settings(requests.process).get("blocks_only"):
        raise MemtraceError(
            "nothing to replay: the imported file tells of blocks alone, not what was asked for"
        )


def run_of(found: dict[str, Any], stream: Stream) -> Run:
    """What the native side told, in places and rows."""

    def place(request: int) -> float:
        return float(stream.places[request]) if len(stream.places) else 0.0

    def failed(listed: list[tuple[int, int]]) -> tuple[Failed, ...]:
        return tuple(Failed(at, place(at), int(stream.rows[at]), size) for at, size in listed)

    return Run(
        peaks={of: Peak(found[of]["bytes"], place(found[of]["request"])) for of in MEASURES},
        last_bytes={of: found[f"last_{of}_bytes"] for of in MEASURES},
        segments=found["segments"],
        unused_bytes=found["unused_bytes"],
        largest_unused_bytes=found["largest_unused_bytes"],
        retries=found["retries"],
        failed=failed(found["failures"]),
        repeated_failures=found["repeated_failures"],
        passed=failed(found["passed"]),
        early_waits=found["early_waits"],
    )


def _segment_event(told: tuple[str, int, int, int] | None) -> SegmentEvent | None:
    return None if told is None else SegmentEvent(told[0], told[1], told[2])


def caveats_of(found: Replay) -> list[str]:
    """Where the replay is not exact, and why."""
    return [line for ask in _CAVEATS if (line := ask(found)) is not None]


def _diverges(found: Replay) -> str | None:
    verification = found.verification
    if verification is None or verification.divergence is None:
        return None
    version = found.requests.process.row.get("torch_version")
    return (
        f"under its own settings the recording is reproduced only up to event "
        f"{verification.divergence.place:.0f} ({verification.compared:,} segment events): the "
        f"rules are those of torch 2.11, and this was torch {version}"
    )


def _races(found: Replay) -> str | None:
    rows = found.requests.rows
    threads = len(np.unique(integers(rows, "thread_id", missing=-1))) if len(rows) else 0
    if threads < 2:
        return None
    return (
        f"{threads} threads allocate on {found.requests.device}: their order is the recorded one, "
        "and another run may have another"
    )


def _sets_its_own(found: Replay) -> str | None:
    changes = sum(mark.kind == "settings" and mark.place > 0 for mark in found.requests.marks)
    if found.conf is None or not changes:
        return None
    return (
        f"the program changes the allocator's settings itself, {changes:,} "
        f"time{'s' * (changes > 1)}, and does so here: the given ones hold until then"
    )


def _caught(found: Replay) -> str | None:
    failures = len(found.requests.failures)
    if not failures or found.as_recorded:
        return None
    return (
        f"{failures} allocation{'s' * (failures > 1)} failed in the recording: where they do not "
        "fail, the program asks for other memory afterwards than it did"
    )


def _began_late(found: Replay) -> str | None:
    rows = found.requests.rows
    if found.as_recorded or not len(rows) or not equals(rows, "origin", "preexisting").any():
        return None
    return "the recording began in mid-run: what was allocated before lies where it lay"


def _waits(found: Replay) -> str | None:
    if found.as_recorded:
        return None
    requests = found.requests
    waited = int(np.sum(np.isfinite(requests.release) & (requests.release > requests.free + 1)))
    if not waited:
        return None
    return (
        f"{waited:,} free{'s' * (waited > 1)} waited for other streams: they are completed where "
        "they were in the recording"
    )


def _ties(found: Replay) -> str | None:
    low, high = found.peak("reserved")
    if low.total_bytes == high.total_bytes and len({run.retries for run in found.runs}) == 1:
        return None
    return "equal blocks are chosen by address, which another run may have otherwise: a range"


def _outside(found: Replay) -> str | None:
    if found.device.outside_known or found.as_recorded:
        return None
    return "what of the device is not torch's is not known, and taken as nothing"


_CAVEATS: tuple[Callable[[Replay], str | None], ...] = (
    _diverges, _races, _sets_its_own, _caught, _began_late, _waits, _ties, _outside,
)  # fmt: skip
