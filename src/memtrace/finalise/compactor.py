"""The thread of the finaliser that compacts long recordings while their processes run.

Short ones are left alone: until a spool is large nothing is read of it, and nothing heavy imported.
A child that has ended before the program is finished here as well: what is known of its blocks
takes memory, and a training run of hours has new DataLoader workers in each epoch.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from memtrace import _core
from memtrace.finalise.background import begun_thread, take_lowest_priority
from memtrace.finalise.spools import held
from memtrace.run.output import pid_of_key

if TYPE_CHECKING:
    from memtrace.finalise.compaction import Compaction

_LARGE_BYTES = 64 << 20  # a million records: these are converted in half a second
_SHARE_OF_DISK = 16  # of the limit: such a spool is large, too
_TIMES_SMALLER = 5  # records are when they are packed
_MOST_AT_ONCE = 16  # each takes some 60 MiB of memory
_PERIOD_S = 2.0
_PERIOD_ON_LITTLE_DISK_S = 0.5


class Compactor:
    """Works from start() to stop() on all large spools of a trace.

    At the lowest priority, which on a busy machine gets next to no time, and of so many processes
    at the most: those beyond are converted when they have ended. Within `max_disk_bytes` of all, at
    the priority of the process, for what is not read yet takes disk as well.
    """

    def __init__(
        self, trace_dir: Path, *, main_pid: int = 0, max_disk_bytes: int | None = None
    ) -> None:
        """main_pid: The program, whose end is another's to find out; 0: it is gone."""
        self._trace_dir = trace_dir
        self._main_pid = main_pid
        self._max_disk_bytes = max_disk_bytes
        self._large_bytes = _LARGE_BYTES
        if max_disk_bytes is not None:
            self._large_bytes = min(_LARGE_BYTES, max_disk_bytes // _SHARE_OF_DISK)
        self._compactions: dict[str, Compaction] = {}
        self._given_up: set[str] = set()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look at the spools, or go on with them."""
        self._stopping.clear()
        self._thread = begun_thread("memtrace-compact", self._run)

    def stop(self) -> dict[str, Compaction]:
        """End within a moment, or when the child in hand is finished.

        Returns:
            What was begun, by the keys of the spools, to be finished.
        """
        if self._thread is not None:
            self._stopping.set()
            self._thread.join()
            self._thread = None
        return dict(self._compactions)

    def forget(self, keys: Iterable[str]) -> None:
        """Those are finished."""
        for key in keys:
            self._compactions.pop(key, None)

    def abandon(self) -> None:
        """Stop, and take away what was written of processes that run on: their spools stay."""
        for compaction in self.stop().values():
            compaction.abandon()
        self._compactions.clear()

    def _run(self) -> None:
        if self._max_disk_bytes is None:
            take_lowest_priority()
        period_s = _PERIOD_S if self._max_disk_bytes is None else _PERIOD_ON_LITTLE_DISK_S
        while not self._stopping.is_set():
            idle = True
            with suppress(OSError):  # no descriptors are left: perhaps there are some later
                for folder in self._trace_dir.glob("spool/process=*"):
                    if not self._stopping.is_set():
                        idle = self._step(folder) and idle
            if idle:
                self._stopping.wait(period_s)

    def _step(self, folder: Path) -> bool:
        key = folder.name.partition("=")[2]
        compaction = self._compactions.get(key)
        if key in self._given_up or (compaction is None and not self._may_begin(folder)):
            return True
        with held(folder, wait=False) as is_ours:
            if not is_ours:
                return True
            try:
                if compaction is None:
                    compaction = self._compactions[key] = self._begin(key, folder)
                idle = compaction.step(sharers=len(self._compactions))
            except Exception:  # as if it had never been begun
                self._given_up.add(key)
                self._compactions.pop(key, None)
                if compaction is not None:
                    compaction.abandon()
                if os.environ.get("MEMTRACE_DEBUG"):
                    raise
                return True
        if idle and self._has_ended(folder):
            self._finish(key)
        return idle

    def _has_ended(self, folder: Path) -> bool:
        return (
            pid_of_key(folder.name) != self._main_pid and _core.writer_life(str(folder)) == "ended"
        )

    def _finish(self, key: str) -> None:
        from memtrace.finalise.convert import finalise

        compaction = self._compactions.pop(key)
        done: tuple[str, ...] = ()
        try:
            done = finalise(self._trace_dir, compactions={key: compaction}, keys={key}).keys
        except Exception:  # a full disk, say: it is tried again at the end
            if os.environ.get("MEMTRACE_DEBUG"):
                raise
        if key not in done:
            self._given_up.add(key)
            compaction.abandon()

    def _may_begin(self, folder: Path) -> bool:
        if self._max_disk_bytes is None and len(self._compactions) >= _MOST_AT_ONCE:
            return False
        try:
            packed_bytes = sum(path.stat().st_size for path in folder.glob("packed-*.bin"))
            records_bytes = (folder / "records.bin").stat().st_size + _TIMES_SMALLER * packed_bytes
            return records_bytes >= self._large_bytes
        except OSError:
            return False

    def _begin(self, key: str, folder: Path) -> Compaction:
        from memtrace.finalise.compaction import Compaction

        return Compaction(key, folder, self._trace_dir, max_disk_bytes=self._max_disk_bytes)
