"""Which recordings run, and whether a path is one that can be followed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from memtrace import _core
from memtrace.errors import MemtraceError
from memtrace.run.output import is_trace

SPOOL = "spool"
PARTITION = "process="
_TEXTS = "text.log"  # a recorder holds it open


def spool_dirs(trace_dir: Path) -> dict[str, Path]:
    """The spools of a trace, by the key of their process."""
    with suppress(OSError):
        found = sorted((trace_dir / SPOOL).glob(f"{PARTITION}*"))
        return {path.name.removeprefix(PARTITION): path for path in found}
    return {}


def is_finished(trace_dir: Path, key: str) -> bool:
    """Whether the tables of a process are in place: its row of `processes` comes last."""
    return any((trace_dir / "processes" / f"{PARTITION}{key}").glob("part-*"))


def running_recordings() -> list[Path]:
    """The traces of this folder that are written to now; where there are none, those of others."""
    here = [path for path in Path().glob("*.memtrace") if _is_running(path)]
    return sorted(here or {_short(path) for path in _written_to()})


def choose_recording() -> Path:
    """The recording that runs: in this folder, else anywhere.

    Raises:
        MemtraceError: none runs, or several do; one line that names them.
    """
    running = running_recordings()
    if not running:
        raise MemtraceError(
            "no recording runs: start one in another terminal with python -m memtrace run SCRIPT"
        )
    if len(running) > 1:
        names = ", ".join(str(path) for path in running)
        raise MemtraceError(f"{len(running):,} recordings run: name one of {names}")
    return running[0]


def check_recording(trace_dir: Path) -> None:
    """Refuses what cannot be followed.

    Raises:
        MemtraceError: one line that says what it is, and what to do.
    """
    if not trace_dir.exists():
        raise MemtraceError(f"{trace_dir}: no such trace")
    if not trace_dir.is_dir():
        raise MemtraceError(f"{trace_dir} is a file; a trace is a directory, NAME.memtrace")
    if not os.access(trace_dir, os.R_OK | os.X_OK):
        raise MemtraceError(f"{trace_dir}: permission denied (traces are private to their user)")
    if spool_dirs(trace_dir):
        return
    if (trace_dir / "processes").is_dir():
        raise MemtraceError(
            f"{trace_dir} is finished, nothing is recorded any more: "
            f"python -m memtrace summary {trace_dir}"
        )
    if not is_trace(str(trace_dir)):
        raise MemtraceError(f"{trace_dir} is not a memtrace trace")
    if not (trace_dir / SPOOL).is_dir():
        raise MemtraceError(f"{trace_dir} is not being recorded, and holds no records")


def _is_running(trace_dir: Path) -> bool:
    spools = spool_dirs(trace_dir).values()
    return any(_core.writer_life(str(spool)) == "running" for spool in spools)


def _written_to() -> Iterator[Path]:
    """By what processes hold open: the system tells it of those of this user."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            for number in (process / "fd").iterdir():
                target = _link(number)
                if target is None or target.name != _TEXTS or len(target.parts) < 4:
                    continue
                spool = target.parent
                if spool.name.startswith(PARTITION) and _core.writer_life(str(spool)) == "running":
                    yield spool.parent.parent


def _link(path: Path) -> Path | None:
    try:
        return path.readlink()
    except OSError:
        return None


def _short(path: Path) -> Path:
    """As it is named from here."""
    try:
        return path.relative_to(Path.cwd())
    except (ValueError, OSError):
        return path
