"""The trace directory: which one, made atomically, and what --force may replace.

The trace that --force replaces is put aside, and deleted only when the recording has begun: what
goes wrong before that gives it back.
"""

from __future__ import annotations

import os

from memtrace.errors import MemtraceError

MARKER = "_memtrace.json"  # what makes a directory a trace; readers of Parquet skip names with _
_MARKER_TEXT = '{"memtrace_trace":true,"format_version":1}\n'
# All that memtrace writes into a trace (FORMAT.md). --force deletes these names and no others.
_DATASETS = ("allocations", "events", "segments", "operators", "stacks", "names", "stages", "steps")
_MORE_DATASETS = ("samples", "marks", "timeline", "processes")
_OWN_NAMES = frozenset((*_DATASETS, *_MORE_DATASETS, "spool", MARKER))
UNFINISHED = ".finalising-"  # begins the folder of a finaliser that is at work, or was killed
# A recording needs this much before its first event: control page, first chunks, names.
_ROOM_BYTES = 1 << 20


def create_trace(output: str | None, name: str, *, force: bool) -> str:
    """Make the directory (0700, with spool/ and marker) and return its absolute path.

    To be followed by forget_replaced() when the recording has begun, or by take_back().

    Raises:
        MemtraceError: one line that says why it cannot be made.
    """
    if output is None:
        path = _create_next_free(name)
    else:
        path = _absolute(output)
        _create_named(path, output, force=force)
    try:
        _furnish(path)
    except BaseException as error:
        take_back(path)
        if not isinstance(error, OSError):
            raise
        raise MemtraceError(f"cannot write the trace {path}: {error.strerror}") from None
    return path


def forget_replaced(path: str) -> None:
    """Delete the trace that this one has replaced, if there was one."""
    aside = _aside(path)
    if os.path.lexists(aside):
        delete_tree(aside)


def take_back(path: str) -> None:
    """Undo create_trace(), in the same process."""
    try:
        delete_tree(path)
    except OSError:
        return  # the old one stays where it was put
    aside = _aside(path)
    if os.path.lexists(aside):
        os.rename(aside, path)


def _aside(path: str) -> str:
    return f"{path}.replaced-{os.getpid()}"


def _absolute(path: str) -> str:
    try:
        return os.path.abspath(path)
    except OSError:
        raise MemtraceError(
            f"cannot create the trace {path}: the working folder is gone; "
            "give an absolute path (run -o DIR, record(DIR))"
        ) from None


def _create_next_free(name: str) -> str:
    number = 1
    while True:
        path = _absolute(f"{name}.memtrace" if number == 1 else f"{name}.{number}.memtrace")
        try:
            _make_folder(path)
            return path
        except FileExistsError:
            number += 1
        except OSError as error:
            where = "name another place for it (run -o DIR, record(DIR))"
            raise MemtraceError(f"{_cannot_create(path, error)}; {where}") from None


def _create_named(path: str, shown: str, *, force: bool) -> None:
    aside = None
    if os.path.lexists(path):
        if not force:
            raise MemtraceError(
                f"{shown} exists: give another name with -o, or replace that trace with --force"
            )
        check_replaceable(path, shown)
        _check_inside(path, shown)
        aside = _aside(path)
    try:
        if aside:
            os.rename(path, aside)
        _make_folder(path)
    except BaseException as error:
        if aside and os.path.lexists(aside) and not os.path.lexists(path):
            os.rename(aside, path)
        if not isinstance(error, OSError):
            raise
        raise _cannot_create(path, error) from None


def _make_folder(path: str) -> None:
    try:
        os.mkdir(path, 0o700)
    except OSError:
        raise
    except BaseException:  # what a signal handler of the program raised, right after it was made
        try:
            os.rmdir(path)
        except OSError:  # or just before
            pass
        raise


def _cannot_create(path: str, error: OSError) -> MemtraceError:
    return MemtraceError(f"cannot create the trace {path}: {error.strerror}")


def check_replaceable(path: str, shown: str) -> None:
    """Refuse to replace what is not a trace, holds other files, or is being recorded.

    Raises:
        MemtraceError: one line that says which of them it is.
    """
    if os.path.islink(path) or not os.path.isdir(path) or not is_trace(path):
        raise MemtraceError(f"{shown} is not a memtrace trace: --force does not replace it")
    strangers = sorted(
        name
        for name in os.listdir(path)
        if name not in _OWN_NAMES and not name.startswith(UNFINISHED)
    )
    if strangers:
        raise MemtraceError(
            f"{shown} also holds {strangers[0]}, which memtrace did not write: "
            "--force does not replace it"
        )
    for name in _list_or_nothing(os.path.join(path, "spool")):
        if name.startswith("process="):
            _check_not_recorded(os.path.join(path, "spool", name), shown)


def _check_not_recorded(spool: str, shown: str) -> None:
    # Not with the others: that it cannot be loaded is told in a better place (run/command.py).
    from memtrace import _core

    life = _core.writer_life(spool)
    process = f"process {pid_of_key(spool)}"
    if life == "running":
        raise MemtraceError(f"{shown} is being recorded by {process}: --force does not replace it")
    if life == "unknown":
        raise MemtraceError(
            f"{shown} may still be recorded by {process} of another machine or container: if that "
            f"has ended, python -m memtrace recover --force {shown}"
        )


def _check_inside(path: str, shown: str) -> None:
    """Refuse also what was put into a folder of memtrace's own; an empty folder is no loss."""
    for folder, folders, files in os.walk(path):
        within = os.path.relpath(folder, path).split(os.sep)
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in sorted(files + links):
            if within != ["."] and not _is_own_file(within, name):
                raise MemtraceError(
                    f"{shown} also holds {os.path.join(*within, name)}, which memtrace did not "
                    "write: --force does not replace it"
                )


def _is_own_file(within: list[str], name: str) -> bool:
    """Whether memtrace writes such a file into this folder of a trace."""
    top, *below = within
    if top == "spool":
        if not below:
            return name.endswith(".fifo") or name == "room"
        if below == ["unrecorded"]:
            return name.isdigit()
        return len(below) == 1 and "process=" in below[0] and name.endswith((".bin", ".log"))
    if not top.startswith("."):
        below = [word for word in below if not word.startswith("process=")]
        return len(within) == 2 and not below and _is_part(name, ".parquet")
    # .finalising-KEY/DATASET: a finaliser was stopped, perhaps while it wrote some rows anew.
    if below[:1] == ["attributed"]:
        del below[0]
    return len(below) == 1 and _is_part(name, (".parquet", ".thinned"))


def _is_part(name: str, ends: str | tuple[str, ...]) -> bool:
    return name.startswith("part-") and name.endswith(ends)


def is_trace(path: str) -> bool:
    """Whether memtrace made this directory."""
    try:
        with open(os.path.join(path, MARKER), encoding="utf-8") as marker:
            return '"memtrace_trace":true' in marker.read(200)
    except (OSError, ValueError):
        return False


def pid_of_key(key: str) -> int | None:
    """The process id in a KEY (host-pid-start)."""
    pid = key.rpartition("-")[0].rpartition("-")[2]
    return int(pid) if pid.isdigit() else None


def _furnish(path: str) -> None:
    os.mkdir(os.path.join(path, "spool"), 0o700)
    marker = os.path.join(path, MARKER)
    fd = os.open(marker, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, _MARKER_TEXT.encode())
    finally:
        os.close(fd)
    # A full disk is told now, before the program runs, not as an empty trace afterwards.
    probe = os.path.join(path, "spool", "room")
    fd = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, _ROOM_BYTES)
    finally:
        os.close(fd)
        os.unlink(probe)


def _list_or_nothing(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def delete_tree(path: str) -> None:
    """shutil.rmtree, without importing shutil where the program is about to run."""
    for folder, folders, files in os.walk(path, topdown=False):
        for name in files:
            os.unlink(os.path.join(folder, name))
        for name in folders:
            inner = os.path.join(folder, name)
            (os.unlink if os.path.islink(inner) else os.rmdir)(inner)
    os.rmdir(path)
