"""The container that a process runs in: usage, peak and limit of its memory cgroup, v1 or v2.

Cgroups nest, and a limit counts for all that is below. Shown is the cgroup whose limit is the
tightest on the way up, as its usage is what that limit is held against; where none is limited, the
process's own.
"""

from __future__ import annotations

import os

from memtrace.sample.process import read

ROOT = "/sys/fs/cgroup"
#: v1 writes the largest multiple of a page for "no limit", v2 the word "max".
_UNLIMITED_BYTES = 1 << 62

_V1 = {
    "usage": "memory.usage_in_bytes",
    "peak": "memory.max_usage_in_bytes",
    "limit": "memory.limit_in_bytes",
}
_V2 = {"usage": "memory.current", "peak": "memory.peak", "limit": "memory.max"}
_FILE_CACHE = (b"total_inactive_file", b"inactive_file")  # of v1 with all below it, of v2


class Container:
    """One memory cgroup: where its files are, and what they are called."""

    def __init__(self, folder: str, files: dict[str, str]) -> None:
        self.folder = folder
        self._files = files

    def readings(self, *, whole: bool) -> list[tuple[str, int]]:
        """(metric, bytes): usage, peak, and limit if there is one; `inactive_file` if `whole`.

        What this kernel does not tell is left out.
        """
        found = {metric: self._value(metric) for metric in self._files}
        if whole:
            found["inactive_file"] = self._inactive_file()
        return [(metric, value) for metric, value in found.items() if value is not None]

    def limit_bytes(self) -> int | None:
        """None where it has none, or where that is not told."""
        return self._value("limit")

    @property
    def exists(self) -> bool:
        """Whether it tells its usage: the root cgroup of v2 does not."""
        return os.path.exists(os.path.join(self.folder, self._files["usage"]))

    def _value(self, metric: str) -> int | None:
        try:
            value = int(read(os.path.join(self.folder, self._files[metric])))
        except (OSError, ValueError):  # among others "max"
            return None
        return value if value < _UNLIMITED_BYTES else None

    def _inactive_file(self) -> int | None:
        """Cached file pages that the kernel takes back first when the limit is near."""
        try:
            lines = read(os.path.join(self.folder, "memory.stat")).splitlines()
            values = dict(line.split(None, 1) for line in lines)
            return next((int(values[name]) for name in _FILE_CACHE if name in values), None)
        except (OSError, ValueError):
            return None


def find_container(cgroups: bytes, root: str = ROOT) -> Container | None:
    """The memory cgroup of a process, by the text of its /proc/PID/cgroup; None: it has none."""
    path, files, top = _own(cgroups, root)
    if path is None:
        return None
    candidates = [c for c in (Container(f, files) for f in _upwards(top, path)) if c.exists]
    limited = [(limit, c) for c in candidates if (limit := c.limit_bytes()) is not None]
    if limited:
        return min(limited, key=lambda found: found[0])[1]  # of equal ones the innermost
    return candidates[0] if candidates else None


def _own(cgroups: bytes, root: str) -> tuple[str | None, dict[str, str], str]:
    unified = None
    for line in cgroups.splitlines():
        fields = line.split(b":", 2)
        if len(fields) != 3:
            continue
        if b"memory" in fields[1].split(b","):
            return os.fsdecode(fields[2]), _V1, os.path.join(root, "memory")
        if fields[0] == b"0" and not fields[1]:
            unified = os.fsdecode(fields[2])
    return unified, _V2, root


def _upwards(top: str, path: str) -> list[str]:
    """The folder of the cgroup and all above it.

    In a container the path may be the host's while the mount begins at the container's own cgroup
    (v1 in Docker): then what lies below the mount is the end of the path.
    """
    names = [name for name in path.split("/") if name not in ("", "..")]
    while names and not os.path.isdir(os.path.join(top, *names)):
        del names[0]
    return [os.path.join(top, *names[:length]) for length in range(len(names), -1, -1)]
