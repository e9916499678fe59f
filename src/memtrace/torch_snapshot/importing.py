"""From a snapshot file to a finished trace."""

from __future__ import annotations

from pathlib import Path

from memtrace.errors import MemtraceError
from memtrace.run.output import create_trace, forget_replaced, take_back
from memtrace.torch_snapshot.reader import write_spool_of

_KEY = "snapshot-0-imported"


def import_snapshot(snapshot: Path, output: str | None = None, *, force: bool = False) -> Path:
    """Makes a trace of a memory snapshot of torch's.

    Args:
        snapshot: The pickle file.
        output: The directory of the trace; by default the file's name with .memtrace.
        force: Replace a trace that is there.

    Returns:
        The directory.

    Raises:
        MemtraceError: the file is no snapshot, or the trace cannot be written; nothing is left of
            it then, and a trace that was to be replaced is as it was.
    """
    _check(snapshot)
    folder = create_trace(output, snapshot.stem, force=force)
    try:
        write_spool_of(snapshot, Path(folder) / "spool" / f"process={_KEY}")
        from memtrace.finalise import finalise

        finalise(Path(folder), progress=True)
    except BaseException:
        take_back(folder)
        raise
    forget_replaced(folder)
    return Path(folder)


def _check(snapshot: Path) -> None:
    try:
        if snapshot.is_dir():
            raise MemtraceError(f"{snapshot} is a directory; a memory snapshot is a file")
        with snapshot.open("rb") as file:
            file.read(1)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise MemtraceError(f"cannot read {snapshot}: {reason}") from error
