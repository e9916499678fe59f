"""The shortest answer: of each device its peak, when it was, and the largest owners of it."""

from __future__ import annotations

from dataclasses import dataclass

from memtrace.analyse.breakdown import Breakdown, break_down, not_recorded
from memtrace.analyse.peak import Peak, find_peak
from memtrace.analyse.snapshot import LIVE_COLUMNS
from memtrace.analyse.summary import Summary, summarise
from memtrace.trace import Trace

#: What the bytes at a peak are grouped by, one after the other.
GROUPED_BY = ("category", "module", "operator", "source")
OWNERS_SHOWN = 3


@dataclass(frozen=True)
class DevicePeak:
    """One device of the process with the largest peak.

    Attributes:
        reserved_bytes: the most that was reserved, at whatever time; None for the CPU.
        owners: the bytes at the peak of allocated, by each of GROUPED_BY.
    """

    peak: Peak
    reserved_bytes: int | None
    owners: tuple[Breakdown, ...]


@dataclass(frozen=True)
class Overview:
    """The whole trace in a few lines."""

    summary: Summary
    devices: tuple[DevicePeak, ...]


def take_overview(trace: Trace, *, device: str | None = None) -> Overview:
    """Of the process with the largest peak.

    Args:
        device: only this one; every one that it used when left out.

    Raises:
        MemtraceError: there is no such device.
    """
    summary = summarise(trace, device=device)
    main = next((p for p in summary.processes if p.process.key == summary.main), None)
    used = () if main is None else main.devices
    return Overview(
        summary,
        tuple(
            _device_peak(
                find_peak(trace, device=use.device, process=summary.main, top=OWNERS_SHOWN),
                None if use.reserved is None else use.reserved.total_bytes,
            )
            for use in used
            if use.allocated is not None
        ),
    )


def _device_peak(peak: Peak, reserved_bytes: int | None) -> DevicePeak:
    assert set(GROUPED_BY) <= set(LIVE_COLUMNS)
    owners = tuple(
        break_down(
            peak.live,
            by=by,
            total_bytes=peak.total_bytes,
            top=OWNERS_SHOWN,
            nameless=not_recorded(by, peak.process.row),
        )
        for by in GROUPED_BY
    )
    return DevicePeak(peak, reserved_bytes, owners)
