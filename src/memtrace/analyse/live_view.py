"""What is known of a recording while it runs: plain values, all of one moment.

Followed by memtrace.live, shown by memtrace.report.live and in the terminal.
"""

from __future__ import annotations

from dataclasses import dataclass

#: What bytes are grouped by while the program runs, and what those without one are called.
#: A category is one that identity or the user proves; lifetimes prove the others, at the end.
LIVE_GROUPINGS = {
    "category": "not known yet",
    "module": "outside any module",
    "operator": "outside any operator",
    "source": "no Python line",
}

STARTING, RECORDING, PAUSED = "starting", "recording", "paused"
ENDED, KILLED, FINISHED, GONE, REFUSED = "ended", "killed", "finished", "gone", "refused"
#: States in which nothing is recorded any more.
OVER = frozenset({ENDED, KILLED, FINISHED, GONE, REFUSED})


@dataclass(frozen=True)
class Holder:
    """Who holds bytes of a device; `name` None: the rows without one (LIVE_GROUPINGS)."""

    name: str | None
    now_bytes: int
    now_blocks: int
    peak_bytes: int
    peak_blocks: int


@dataclass(frozen=True)
class DeviceView:
    """One device of a process.

    Attributes:
        reserved_bytes: None for the CPU, as for the other two that need a caching allocator.
        peak_bytes: the most that was allocated so far; `peak_time_ns`: when first.
        peak_reserved_bytes: the most that was reserved so far, at whatever time.
        external_bytes: memory of files, numpy and others that torch was handed: beside the rest.
        total_bytes: of the device; None: not known.
        ooms: allocations that failed.
        allocated_curve, reserved_curve: the most in each of equal parts of the time until now.
        holders: by grouping, in no order; each sums to allocated_bytes and peak_bytes.
    """

    device: str
    allocated_bytes: int
    active_bytes: int | None
    reserved_bytes: int | None
    peak_bytes: int
    peak_time_ns: int | None
    peak_reserved_bytes: int | None
    external_bytes: int
    total_bytes: int | None
    allocations: int
    frees: int
    ooms: int
    allocated_curve: tuple[int, ...]
    reserved_curve: tuple[int, ...]
    holders: dict[str, tuple[Holder, ...]]

    def top(self, by: str, *, at_peak: bool = False) -> list[Holder]:
        """Those that hold something now, or held at the peak; the largest first."""

        def held(holder: Holder) -> int:
            return holder.peak_bytes if at_peak else holder.now_bytes

        found = [h for h in self.holders[by] if h.now_blocks or h.peak_blocks]
        return sorted(found, key=lambda h: (-held(h), h.name is None, h.name or ""))


@dataclass(frozen=True)
class ProcessView:
    """One process of a recording.

    Attributes:
        program: its script and arguments, "" when withheld or not known yet.
        state: one of the names above.
        why: of a spool that cannot be read: one line; else "".
        step: the last one that lies in no other, 0: none yet; `step_name`: what the program calls
            it, or the class of the model that it is a call of.
        time_ns: of the last event, since the recording began.
        read_permille: how much of what was recorded is in these figures.
        lost: what was lost, by kind; only what is not 0.
    """

    key: str
    pid: int | None
    rank: int | None
    program: str
    state: str
    why: str = ""
    exit_status: int | None = None
    stage: str | None = None
    step: int = 0
    step_name: str | None = None
    step_running: bool = False
    time_ns: int = 0
    events: int = 0
    read_permille: int = 1000
    lost: tuple[tuple[str, int], ...] = ()
    devices: tuple[DeviceView, ...] = ()

    @property
    def over(self) -> bool:
        """Nothing is recorded any more."""
        return self.state in OVER

    def device(self, name: str) -> DeviceView | None:
        """The device of that name, such as "cuda:0"."""
        return next((device for device in self.devices if device.device == name), None)


@dataclass(frozen=True)
class LiveView:
    """A recording; `trace`: as it is to be named in commands. Parents come before children."""

    trace: str
    processes: tuple[ProcessView, ...]

    @property
    def over(self) -> bool:
        """No process records any more."""
        return bool(self.processes) and all(process.over for process in self.processes)
