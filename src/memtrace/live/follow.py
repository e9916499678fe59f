"""Follows the processes of a recording; each refresh reads only what is new.

Figures of a process that ended stay as they were: what a follower has open is there for it, also
when the finaliser has deleted the spool.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from memtrace import _core
from memtrace.analyse.live_view import (
    ENDED,
    FINISHED,
    GONE,
    KILLED,
    LIVE_GROUPINGS,
    PAUSED,
    RECORDING,
    REFUSED,
    STARTING,
    DeviceView,
    Holder,
    LiveView,
    ProcessView,
)
from memtrace.errors import MemtraceError
from memtrace.finalise.notes import Notes, merge_notes
from memtrace.live.recordings import is_finished, spool_dirs
from memtrace.run.output import pid_of_key

_CPU = "cpu"
_NS = 1_000_000_000


class TraceFollower:
    """Of one trace. One thread at a time."""

    def __init__(self, trace_dir: Path) -> None:
        self._trace_dir = trace_dir
        self._processes: dict[str, _ProcessFollower] = {}

    def refresh(self, *, points: int, most_s: float) -> LiveView:
        """Reads on, for about so long, and says what there is.

        Args:
            points: of the curves.
            most_s: where more was recorded than can be read in it, the next call goes on.
        """
        for key, path in spool_dirs(self._trace_dir).items():
            if key not in self._processes:
                self._processes[key] = _ProcessFollower(self._trace_dir, key, path)
        share_ns = int(most_s * _NS / max(len(self._processes), 1))
        views = [process.refresh(points, share_ns) for process in self._processes.values()]
        views.sort(key=lambda view: (view.rank is None, view.rank, self._order(view)))
        return LiveView(str(self._trace_dir), tuple(views))

    def _order(self, view: ProcessView) -> tuple[bool, str]:
        return (not self._processes[view.key].is_main, view.key)


class _ProcessFollower:
    def __init__(self, trace_dir: Path, key: str, path: Path) -> None:
        self._trace_dir, self._key, self._path = trace_dir, key, path
        self._live: _core.Live | None = None
        self._notes = Notes()
        self._notes_read = 0
        self._last = ProcessView(key, pid_of_key(key), None, "", STARTING)
        self._why = ""

    @property
    def is_main(self) -> bool:
        return self._notes.text("start_method") == "main"

    def refresh(self, points: int, most_ns: int) -> ProcessView:
        # Asked before reading: what a process that has ended has written is all there.
        there = self._path.is_dir()
        ended = not there or _core.writer_life(str(self._path)) == "ended"
        if self._live is None and not self._open(ended):
            state = self._without_figures(there, ended)
            self._last = ProcessView(
                self._key, pid_of_key(self._key), None, "", state, why=self._why
            )
            return self._last
        if self._last.over and self._last.read_permille == 1000:
            self._last = self._over(there)
            return self._last
        self._last = self._read(points, most_ns, there=there, ended=ended)
        return self._last

    def _open(self, ended: bool) -> bool:
        try:
            self._live = _core.Live(self._path)
        except _core.SpoolError as error:
            # One that is being made says the same as one that is damaged: it is asked again.
            self._why = str(error) if ended else ""
            return False
        return True

    def _without_figures(self, there: bool, ended: bool) -> str:
        if there:
            return REFUSED if ended else STARTING
        return FINISHED if is_finished(self._trace_dir, self._key) else GONE

    def _read(self, points: int, most_ns: int, *, there: bool, ended: bool) -> ProcessView:
        live = self._live
        assert live is not None
        caught_up = live.advance(ended=ended, most_ns=most_ns)
        state = live.state()
        notes = self._merged_notes(live)
        argv = notes.get("argv")
        words = [str(word) for word in argv] if isinstance(argv, list) else []
        return ProcessView(
            key=self._key,
            pid=notes.integer("pid") or pid_of_key(self._key),
            rank=notes.integer("rank"),
            program=" ".join(words),
            state=self._state(state, there=there, ended=ended, caught_up=caught_up),
            exit_status=state["exit_status"],
            stage=state["stage"],
            step=state["step"],
            step_name=state["step_name"],
            step_running=state["step_running"],
            time_ns=state["last_time_ns"],
            events=state["events"],
            read_permille=1000 if caught_up else _permille(state),
            lost=tuple((kind, number) for kind, number in state["lost"].items() if number),
            devices=tuple(
                _device(live, name, figures, points)
                for name, figures in sorted(live.devices().items(), key=_accelerators_first)
            ),
        )

    def _merged_notes(self, live: _core.Live) -> Notes:
        texts = live.process_notes()
        if len(texts) != self._notes_read:
            self._notes_read = len(texts)
            self._notes = merge_notes(texts)
        return self._notes

    def _state(self, state: dict[str, Any], *, there: bool, ended: bool, caught_up: bool) -> str:
        closed = state["complete"]
        if not (closed or ended) or not caught_up:
            return PAUSED if state["paused"] else RECORDING
        return self._end(there, killed=not closed and state["exit_status"] is None)

    def _end(self, there: bool, *, killed: bool) -> str:
        if there:
            return KILLED if killed else ENDED
        return FINISHED if is_finished(self._trace_dir, self._key) else GONE

    def _over(self, there: bool) -> ProcessView:
        state = self._end(there, killed=self._last.state == KILLED)
        return self._last if state == self._last.state else replace(self._last, state=state)


def _permille(state: dict[str, Any]) -> int:
    read, published = int(state["read_bytes"]), int(state["published_bytes"])
    return max(min(read * 1000 // max(published, 1), 999), 0)


def _accelerators_first(item: tuple[str, Any]) -> tuple[bool, str, int]:
    kind, _, index = item[0].partition(":")
    return (kind == _CPU, kind, int(index) if index.isdigit() else -1)


def _device(live: _core.Live, name: str, figures: dict[str, Any], points: int) -> DeviceView:
    allocated, reserved = live.curve(name, points)
    cached = name != _CPU
    return DeviceView(
        device=name,
        allocated_bytes=figures["allocated_bytes"],
        active_bytes=figures["active_bytes"] if cached else None,
        reserved_bytes=figures["reserved_bytes"] if cached else None,
        peak_bytes=figures["peak_allocated_bytes"],
        peak_time_ns=figures["peak_time_ns"],
        peak_reserved_bytes=figures["peak_reserved_bytes"] if cached else None,
        external_bytes=figures["external_bytes"],
        total_bytes=figures["total_bytes"] or None,
        allocations=figures["allocations"],
        frees=figures["frees"],
        ooms=figures["ooms"],
        allocated_curve=tuple(allocated),
        reserved_curve=tuple(reserved) if cached else (),
        holders={
            by: tuple(Holder(*group) for group in live.groups(name, by)) for by in LIVE_GROUPINGS
        },
    )


def chosen(view: LiveView, *, process: str | None, device: str | None) -> LiveView:
    """The view with that process alone, if one is asked for.

    Raises:
        MemtraceError: there is no such process or device; the line says which there are.
    """
    processes = view.processes
    if process is not None:
        processes = tuple(p for p in processes if process in (p.key, str(p.pid)))
        if not processes:
            there = ", ".join(str(p.pid) for p in view.processes) or "none yet"
            raise MemtraceError(f"--process {process}: no such process; there are: {there}")
    names = dict.fromkeys(d.device for p in processes for d in p.devices)
    if device is not None and device not in names:
        there = ", ".join(names) or "none yet"
        raise MemtraceError(f"--device {device}: nothing was allocated on it; there are: {there}")
    return replace(view, processes=processes)
