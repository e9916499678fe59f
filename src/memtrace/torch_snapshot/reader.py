"""Snapshot file to spool in a process of its own, whose memory and time are bounded.

The bounds grow with the file: they are some times what an honest snapshot of that size takes.
Memory: the values of a snapshot take 10 to 15 times its file, their records 64 bytes an event.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

from memtrace.errors import MemtraceError

_MEMORY_BASE_BYTES = 512 << 20
_MEMORY_PER_FILE_BYTE = 40
_SECONDS_BASE = 20
_FILE_BYTES_PER_SECOND = 500_000  # a tenth of what was measured

# -I and -S: nothing of the user's is imported but what this process could import as well.
_CHILD = """\
import json, sys
sys.path[:] = json.loads(sys.argv[3])
from memtrace.torch_snapshot.reader import child
sys.exit(child(sys.argv[1], sys.argv[2]))
"""


def write_spool_of(snapshot: Path, spool_dir: Path) -> None:
    """Turns a snapshot file into the spool of a recording.

    Raises:
        MemtraceError: one line that says what is wrong with the file.
    """
    paths = json.dumps([str(Path(path).absolute()) for path in sys.path])
    argv = [sys.executable, "-I", "-S", "-c", _CHILD, str(snapshot), str(spool_dir), paths]
    environ = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    stderr = None if os.environ.get("MEMTRACE_DEBUG") else subprocess.DEVNULL
    done = subprocess.run(argv, env=environ, stdout=subprocess.PIPE, stderr=stderr, check=False)
    if done.returncode == 0:
        return
    try:
        reason = str(json.loads(done.stdout)["error"])
    except (ValueError, KeyError, TypeError):
        reason = "it is not a memory snapshot: reading it took too much time or memory, or crashed"
    raise MemtraceError(f"cannot import {snapshot}: {reason}")


def child(snapshot: str, spool_dir: str) -> int:
    """The process that reads: status 0, or 1 with {"error": ...} on stdout."""
    # Imported before the limits are set: what the libraries map is not the file's.
    from memtrace.torch_snapshot import convert

    gc.disable()  # of what is read nothing is garbage: looking for it would take most of the time
    try:
        limit(Path(snapshot).stat().st_size)
        convert.convert(Path(snapshot), Path(spool_dir))
    except MemtraceError as error:
        return _refuse(str(error))
    except OSError as error:
        return _refuse((error.strerror or str(error)).lower())
    except MemoryError:
        return _refuse("it asks for more memory than a file of its size needs")
    return 0


def _refuse(reason: str) -> int:
    sys.stdout.write(json.dumps({"error": reason}))
    return 1


def limit(file_bytes: int) -> None:
    """Sets what this process may still take to read a snapshot of this size."""
    memory = _virtual_bytes() + _MEMORY_BASE_BYTES + _MEMORY_PER_FILE_BYTE * file_bytes
    seconds = _SECONDS_BASE + file_bytes // _FILE_BYTES_PER_SECOND
    for what, most in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, seconds)):
        _, hard = resource.getrlimit(what)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _virtual_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return 1 << 30
    return pages * resource.getpagesize()
