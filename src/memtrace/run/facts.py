"""What a process notes about itself when its recording begins."""

from __future__ import annotations

import os
import sys
import time

from memtrace.run.environment import Options

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def new_key() -> str:
    """KEY of this process: host-pid-start, unique without any coordination, never all digits."""
    host = "".join(c if c.isascii() and (c.isalnum() or c == ".") else "_" for c in _host())
    return f"{host[:40] or 'host'}-{os.getpid()}-{_base36(time.time_ns())}"


def process_facts(
    options: Options, *, key: str, parent: str | None, start_method: str
) -> dict[str, object]:
    """The first process note."""
    return {
        "key": key,
        "host": _host(),
        "boot_id": _read_line("/proc/sys/kernel/random/boot_id"),
        "pid": os.getpid(),
        "parent_pid": os.getppid(),
        "parent": parent,
        "start_method": start_method,
        "rank": _number("RANK"),
        "local_rank": _number("LOCAL_RANK"),
        "world_size": _number("WORLD_SIZE"),
        "argv": program_argv() if options.argv else None,
        "argv_withheld": not options.argv,
        "versions": {"memtrace": _own_version(), "python": sys.version.split()[0]},
        "operators_on": options.operators,
        "cpu_on": options.cpu,
        "stacks_on": options.stacks,
        "stack_min_bytes": options.stack_min_bytes,
        "torch_seen": False,  # noted again when torch is imported
    }


def program_argv() -> list[str]:
    """The program and its arguments, as they were typed after python and its options."""
    from memtrace.run.interpreter import program_words

    return program_words(sys.orig_argv)


def resident_bytes() -> int:
    """Resident memory of this process."""
    pages = _read_line("/proc/self/statm").split()
    return int(pages[1]) * os.sysconf("SC_PAGE_SIZE") if len(pages) > 1 else 0


def _host() -> str:
    return os.uname().nodename


def _own_version() -> str:
    from memtrace import __version__

    return __version__


def _number(variable: str) -> int | None:
    text = os.environ.get(variable, "")
    return int(text) if text.isascii() and text.isdigit() else None


def _read_line(path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(fd, 4096).decode("ascii", "replace").partition("\n")[0]
    finally:
        os.close(fd)


def _base36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits or "0"
