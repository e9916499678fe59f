"""Samples the processes of a recording from beside them, for as long as they run.

Each process is looked at ten times a second at first, then ever less often: the pause grows with
the time that it has been watched, so the number of samples grows with the logarithm of that, and
is some 600 in a minute, 3,000 in an hour, 5,000 in a day. What is dear (shares of pages, whether
the process uses a GPU) is looked at a tenth as often. And whatever takes its CPU time: the sampler
sleeps fifty times as long, and two hundred times as long until the next dear look. (The wall time
of a look says little: on a busy machine, where samples are wanted most, it is mostly waiting.)
"""

from __future__ import annotations

import os
from time import monotonic, monotonic_ns, thread_time

from memtrace import _core
from memtrace.sample import process
from memtrace.sample.container import ROOT, Container, find_container
from memtrace.sample.nvml import Gpus, NvmlError
from memtrace.sample.sample_file import ANY_GPU, UNAVAILABLE, Reading, open_to_append, to_line

PERIOD_S = 0.1
#: The pause is this part of the time that a process has been watched, if that is more.
_PERIODS = 600
_DEAR_PERIOD_S = 1.0
_DEAR_PERIODS = 60
_IDLE_FACTOR = 50
_DEAR_IDLE_FACTOR = 200
# Each takes two descriptors; what is beyond is recorded, but not sampled.
_MOST_PROCESSES = 250
_MOST_TRIES = 10
_PARTITION = "process="


class _Watched:
    """A process that is sampled: its /proc folder and where its samples go."""

    def __init__(self, pid: int, folder: int, file: int, container: Container | None) -> None:
        self.pid = pid
        self.folder = folder
        self.container = container
        self.began_s = monotonic()
        self.due_s = self.dear_due_s = 0.0
        self.uses_cuda = False
        self.told_unavailable = False
        self.gpus: list[str] = []  # where it has been seen
        self._file = file
        self._cut = False

    def write(self, readings: list[Reading]) -> None:
        """Append; what a full disk does not take is lost."""
        data = (b"\n" if self._cut else b"") + b"".join(map(to_line, readings))
        try:
            self._cut = os.write(self._file, data) != len(data)
        except OSError:
            self._cut = True

    def close(self) -> None:
        os.close(self.folder)
        os.close(self._file)


class Sampler:
    """Call step() again and again, each time after the pause that it asks for."""

    def __init__(self, trace_dir: str, *, cgroup_root: str = ROOT) -> None:
        self._spools = os.path.join(trace_dir, "spool")
        self._cgroup_root = cgroup_root
        self._watched: dict[str, _Watched | None] = {}  # None: not to be sampled, or gone
        self._tries: dict[str, int] = {}
        self._gpus: Gpus | None = None
        self._no_gpus = ""  # why there are none
        self._dear_s = 0.0  # of this step

    def step(self) -> float:
        """Take what is due, of processes that have come since too.

        Returns:
            Seconds until it should be called again.
        """
        began_s = thread_time()
        self._dear_s = 0.0
        now_s = monotonic()
        self._look_for_processes()
        for name, watched in self._watched.items():
            if watched is not None and watched.due_s <= now_s:
                try:
                    self._sample(watched)
                except OSError:  # it is gone
                    watched.close()
                    self._watched[name] = None
        took_s = thread_time() - began_s - self._dear_s
        dues = [watched.due_s for watched in self._watched.values() if watched is not None]
        until_s = min(dues, default=0.0) - monotonic()
        # New processes are looked for at every step, so it is not put off for long.
        return max(PERIOD_S, _IDLE_FACTOR * took_s, min(until_s, _DEAR_PERIOD_S))

    def close(self) -> None:
        """Let go of all processes."""
        for watched in self._watched.values():
            if watched is not None:
                watched.close()
        self._watched.clear()

    # ---- processes -------------------------------------------------------------------------------

    def _look_for_processes(self) -> None:
        try:
            names = os.listdir(self._spools)
        except OSError:
            return
        for name in names:
            if not name.startswith(_PARTITION) or name in self._watched:
                continue
            if sum(watched is not None for watched in self._watched.values()) >= _MOST_PROCESSES:
                return
            watched = self._watch(os.path.join(self._spools, name))
            # A spool that is just being made does not say yet whose it is.
            self._tries[name] = self._tries.get(name, 0) + 1
            if watched is None and self._tries[name] < _MOST_TRIES:
                continue
            if watched is not None:
                self._forget(watched.pid)
            self._watched[name] = watched

    def _forget(self, pid: int) -> None:
        """What it was before it became another program by exec."""
        for name, watched in self._watched.items():
            if watched is not None and watched.pid == pid:
                watched.close()
                self._watched[name] = None

    def _watch(self, spool: str) -> _Watched | None:
        pid = _core.writer_pid(spool)
        if not pid:
            return None  # it has ended, or its number is of another namespace
        try:
            folder = process.open_folder(pid)
        except OSError:
            return None
        try:
            # The folder is that of this process for good; it is the right one if it still is now.
            if _core.writer_pid(spool) == pid:
                container = find_container(process.read("cgroup", folder), self._cgroup_root)
                return _Watched(pid, folder, open_to_append(spool), container)
        except OSError:
            pass
        os.close(folder)
        return None

    # ---- one process -----------------------------------------------------------------------------

    def _sample(self, watched: _Watched) -> None:
        now_s = monotonic()
        age_s = now_s - watched.began_s
        watched.due_s = now_s + max(PERIOD_S, age_s / _PERIODS)
        resident = process.resident_bytes(watched.folder)
        if not resident:  # a zombie
            raise ProcessLookupError
        readings = [_host("rss", resident)]
        dear = watched.dear_due_s <= now_s
        if dear:
            began_s = thread_time()
            readings += self._dear(watched, resident)
            if watched.uses_cuda:
                self._find_gpus()
            took_s = thread_time() - began_s
            self._dear_s += took_s
            pause_s = max(min(_DEAR_PERIOD_S, age_s), PERIOD_S, age_s / _DEAR_PERIODS)
            watched.dear_due_s = now_s + max(pause_s, _DEAR_IDLE_FACTOR * took_s)
        if watched.container is not None:
            found = watched.container.readings(whole=dear)
            now_ns = monotonic_ns()
            readings += [Reading(now_ns, "container", "cgroup", *taken) for taken in found]
        if watched.uses_cuda:
            readings += self._gpu(watched, everywhere=dear)
        watched.write(readings)

    def _dear(self, watched: _Watched, resident: int) -> list[Reading]:
        try:
            if not watched.uses_cuda:
                watched.uses_cuda = process.uses_cuda(watched.folder)
            if resident > process.SHARES_LIMIT_BYTES:
                return []
            shares = process.share_bytes(watched.folder)
            return [_host(name, value) for name, value in shares.items()]
        except PermissionError:  # it is another user's, or hides itself
            watched.uses_cuda = True  # for all that is known
            return []

    def _find_gpus(self) -> None:
        if self._gpus is None and not self._no_gpus:
            try:
                self._gpus = Gpus()
            except NvmlError as error:
                self._no_gpus = str(error)

    def _gpu(self, watched: _Watched, *, everywhere: bool) -> list[Reading]:
        if self._gpus is None:
            return self._unavailable(watched, self._no_gpus)
        uuids = self._gpus.uuids if everywhere or not watched.gpus else watched.gpus
        found: dict[str, list[Reading]] = {}
        held_on = []
        try:
            for uuid in uuids:
                held = self._gpus.process_bytes(uuid).get(watched.pid)
                used, total = self._gpus.used_and_total_bytes(uuid)
                now_ns = monotonic_ns()
                values = [("used", used), ("total", total)]
                if held is not None:
                    values.append(("process", held))
                    held_on.append(uuid)
                found[uuid] = [Reading(now_ns, uuid, "nvml", name, value) for name, value in values]
        except NvmlError as error:
            return self._unavailable(watched, str(error))
        watched.gpus = held_on
        # Of a device that it does not use: nothing, unless it is not told which it does.
        return [reading for uuid in held_on or found for reading in found[uuid]]

    def _unavailable(self, watched: _Watched, why: str) -> list[Reading]:
        if watched.told_unavailable:
            return []
        watched.told_unavailable = True
        return [Reading(monotonic_ns(), ANY_GPU, "nvml", UNAVAILABLE, None, why)]


def _host(metric: str, value: int) -> Reading:
    return Reading(monotonic_ns(), "host", metric, metric, value)
