"""A command in a process of its own, within limits of time and address space, and what it took."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

_OUT_OF_MEMORY = r"MemoryError|bad_alloc|malloc|annot allocate memory|more memory"

# From a small process: a child's peak of resident memory begins with its parent's.
_LAUNCH = """
import json, os, resource, signal, sys, time
limit_s, limit_bytes, log, argv = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:]
resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
told = [(os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2)]
begun = time.perf_counter()
pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=told, setpgroup=0)
late = []
signal.signal(signal.SIGALRM, lambda *_: (late.append(True), os.killpg(pid, signal.SIGKILL)))
signal.alarm(limit_s)
_, status, use = os.wait4(pid, 0)
signal.alarm(0)
wall_s, code = time.perf_counter() - begun, os.waitstatus_to_exitcode(status)
print(json.dumps({"wall_s": wall_s, "cpu_s": use.ru_utime + use.ru_stime,
                  "peak_mib": use.ru_maxrss / 1024, "code": code, "late": bool(late)}))
"""


@dataclass
class Tool:
    """A command line and what it writes. `states`, `owners`: where its output has the peak, in GiB,
    and, stack by stack, how many allocations held how many GiB of it."""

    name: str
    argv: list[str]
    writes: Path | None = None
    states: str | None = None
    owners: str | None = None
    environ: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Limits:
    seconds: int
    gib: int


@dataclass
class Result:
    """Medians over the rounds; `failure` instead of them."""

    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    peak_mib: list[float] = field(default_factory=list)
    written_bytes: int = 0
    stated_bytes: int | None = None
    owners: list[tuple[int, int]] = field(default_factory=list)
    failure: str = ""

    def told(self) -> tuple[float, float, float]:
        wall_s, cpu_s, peak_mib = map(statistics.median, (self.wall_s, self.cpu_s, self.peak_mib))
        return wall_s, cpu_s, peak_mib


def run(tool: Tool, result: Result, limits: Limits, folder: Path) -> None:
    """One round of a tool."""
    log = folder / "log.txt"
    words = [str(limits.seconds), str(limits.gib << 30), str(log), *tool.argv]
    launch = [sys.executable, "-S", "-c", _LAUNCH, *words]
    environ = os.environ | tool.environ
    done = subprocess.run(launch, stdout=subprocess.PIPE, cwd=folder, env=environ, check=True)
    told, said = json.loads(done.stdout), log.read_text(errors="replace")
    if told["late"]:
        so_far = told["peak_mib"] / 1024
        result.failure = f"does not finish in {limits.seconds} s ({so_far:.1f} GiB by then)"
    elif told["code"] and re.search(_OUT_OF_MEMORY, said):
        result.failure = f"out of memory at {limits.gib} GiB, after {told['wall_s']:.0f} s"
    elif told["code"]:
        last = said.strip().splitlines()[-1:] or [""]
        result.failure = f"fails with status {told['code']}: {last[0][:100]}"
    else:
        for name in ("wall_s", "cpu_s", "peak_mib"):
            getattr(result, name).append(told[name])
        result.written_bytes = size_bytes(tool.writes) if tool.writes else 0
        if tool.states:
            stated = re.search(tool.states, said)
            result.stated_bytes = _bytes(stated[1]) if stated else -1
        if tool.owners:
            result.owners = [(int(n), _bytes(gib)) for n, gib in re.findall(tool.owners, said)]


def _bytes(gib: str) -> int:
    return round(float(gib) * 2**30)


def size_bytes(path: Path) -> int:
    """Of a file, or of all files of a folder."""
    return sum(p.stat().st_size for p in (path, *path.rglob("*")) if p.is_file())
