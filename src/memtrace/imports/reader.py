"""File to spools in a process of its own, whose memory and time are bounded.

The bounds grow with the file: they are some times what an honest file of that size takes. Memory:
the values of a snapshot take 10 to 15 times its file, unpacked, their records 64 bytes an event; of
a Chrome trace in gzip, which is 10 to 30 times as long unpacked, less than a tenth of it is kept.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

from memtrace.errors import MemtraceError, readable
from memtrace.imports.formats import Format, format_of, is_compressed, unpacked_bytes

_MEMORY_BASE_BYTES = 512 << 20
_MEMORY_PER_FILE_BYTE = 40
_SECONDS_BASE = 20
_FILE_BYTES_PER_SECOND = 500_000  # a tenth of what was measured
_MOST_UNPACKED = 30  # of a byte of gzip
_MOST_LETTERS = 300

# -I and -S: nothing of the user's is imported but what this process could import as well.
_CHILD = """\
import json, sys
sys.path[:] = json.loads(sys.argv[3])
from memtrace.imports.reader import child
sys.exit(child(sys.argv[1], sys.argv[2], sys.argv[4]))
"""


def write_spools_of(file: Path, spools: Path, kind: Format) -> tuple[str, ...]:
    """Turns a file into the spools of a recording, `process=KEY` in the folder.

    Returns:
        What the file does not tell, a line each.

    Raises:
        MemtraceError: one line that says what is wrong with the file.
    """
    paths = json.dumps([str(Path(path).absolute()) for path in sys.path])
    argv = [sys.executable, "-I", "-S", "-c", _CHILD, str(file), str(spools), paths, kind.name]
    environ = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    stderr = None if os.environ.get("MEMTRACE_DEBUG") else subprocess.DEVNULL
    done = subprocess.run(argv, env=environ, stdout=subprocess.PIPE, stderr=stderr, check=False)
    try:
        told = json.loads(done.stdout)
        if done.returncode == 0:
            return tuple(map(str, told["lacks"]))
        reason = str(told["error"])
    except (ValueError, KeyError, TypeError):
        took = "reading it took too much time or memory, or crashed"
        reason = f"it is not {kind.what}: {took}"
    raise MemtraceError(f"cannot import {file}: {reason}")


def child(file: str, spools: str, name: str) -> int:
    """The process that reads: status 0 and {"lacks": [...]} on stdout, or 1 and {"error": ...}."""
    path = Path(file)
    kind = format_of(path, name)
    kind.load()  # before the limits are set: what the libraries map is not the file's
    gc.disable()  # of what is read nothing is garbage: looking for it would take most of the time
    try:
        if kind.kept:
            limit(unpacked_bytes(path))
        else:
            limit(path.stat().st_size, unpacks=_MOST_UNPACKED if is_compressed(path) else 1)
        lacks = convert(path, Path(spools), kind)
    except MemtraceError as error:
        return _refuse(str(error))
    except OSError as error:
        return _refuse((error.strerror or str(error)).lower())
    except MemoryError:
        return _refuse("it asks for more memory than a file of its size needs")
    sys.stdout.write(json.dumps({"lacks": lacks}))
    return 0


def convert(path: Path, spools: Path, kind: Format) -> list[str]:
    """Format.load()(path, spools), in this process; an error of the file is one short line."""
    try:
        return kind.load()(path, spools)
    except MemtraceError as error:  # it may quote the file, which may hold anything
        line = readable(" ".join(str(error).split()))
        raise MemtraceError(line[:_MOST_LETTERS]) from None


def _refuse(reason: str) -> int:
    sys.stdout.write(json.dumps({"error": reason}))
    return 1


def limit(file_bytes: int, *, unpacks: int = 1) -> None:
    """Sets what this process may still take to read a file of this size."""
    memory = _virtual_bytes() + _MEMORY_BASE_BYTES + _MEMORY_PER_FILE_BYTE * file_bytes
    seconds = _SECONDS_BASE + file_bytes * unpacks // _FILE_BYTES_PER_SECOND
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
