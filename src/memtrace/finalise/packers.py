"""The threads of the finaliser that take full windows from the processes while they record.

csrc/store/window_packer.h says how. A program does not depend on them: without one, or with one
that is slow, its threads append their records themselves. So they work at the lowest priority, with
what the program leaves of the machine.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

from memtrace import _core
from memtrace.finalise.background import begun_thread, take_lowest_priority
from memtrace.finalise.spools import spool_dirs

_MOST_AT_ONCE = 16  # processes; the others do without
_PERIOD_S = 1.0  # in which new processes are looked for


class Packers:
    """Works from start() to stop() on the spools of a trace, a thread for each process.

    Not within a limit of disk space: there records are given up before they are packed, and the
    processes hand nothing over.
    """

    def __init__(self, trace_dir: Path) -> None:
        self._trace_dir = trace_dir
        self._seen: set[str] = set()
        self._at_work: dict[str, tuple[_core.WindowPacker, threading.Thread]] = {}
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look for processes, or go on with them."""
        self._stopping.clear()
        self._seen.clear()
        self._thread = begun_thread("memtrace-packers", self._run)

    def stop(self) -> None:
        """End within a moment: nothing of a spool is touched any more."""
        if self._thread is None:
            return
        self._stopping.set()
        self._thread.join()
        self._thread = None
        for packer, _ in self._at_work.values():
            packer.stop()
        for _, thread in self._at_work.values():
            thread.join()
        self._at_work.clear()

    def _run(self) -> None:
        while not self._stopping.is_set():
            with suppress(OSError):  # no descriptors are left: perhaps there are some later
                for key, path in spool_dirs(self._trace_dir).items():
                    self._look_at(key, path)
            self._stopping.wait(_PERIOD_S)

    def _look_at(self, key: str, path: Path) -> None:
        for ended in [key for key, (_, thread) in self._at_work.items() if not thread.is_alive()]:
            del self._at_work[ended]
        if key in self._seen or len(self._at_work) >= _MOST_AT_ONCE or self._stopping.is_set():
            return
        if _core.writer_life(str(path)) != "running":
            return
        try:
            packer = _core.WindowPacker(path)
        except _core.SpoolError:  # it is being made, or cannot be packed
            return
        if thread := begun_thread(f"memtrace-pack-{key}", _work, packer):  # else perhaps later
            self._seen.add(key)
            self._at_work[key] = packer, thread


def _work(packer: _core.WindowPacker) -> None:
    take_lowest_priority()
    with suppress(_core.SpoolError, MemoryError):  # the spool is gone, or there is no room for it
        packer.work()
