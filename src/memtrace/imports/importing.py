"""From another tool's file to a finished trace."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from memtrace.errors import MemtraceError
from memtrace.imports.formats import Format, format_of
from memtrace.imports.reader import write_spools_of
from memtrace.run.output import create_trace, forget_replaced, take_back

_COMPRESSED, _OF_TRACES = ".gz", (".pt.trace", ".trace", ".chrome")


@dataclass(frozen=True)
class Imported:
    """A trace that was made.

    Attributes:
        lacks: what the file does not tell, a line each.
    """

    path: Path
    kind: Format
    lacks: tuple[str, ...]


def import_file(
    file: Path, output: str | None = None, *, force: bool = False, kind: str | None = None
) -> Imported:
    """Makes a trace of another tool's file.

    Args:
        file: The file.
        output: The directory of the trace; by default the file's name with .memtrace.
        force: Replace a trace that is there.
        kind: The name of its format; by default what its content is.

    Raises:
        MemtraceError: the file is damaged, or of no known kind, or the trace cannot be written;
            nothing is left of it then, and a trace that was to be replaced is as it was.
    """
    try:
        if file.is_dir():
            raise MemtraceError(f"{file} is a directory; import takes a file")
        found = format_of(file, kind)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise MemtraceError(f"cannot read {file}: {reason}") from error
    folder = create_trace(output, _name(file), force=force)
    try:
        lacks = write_spools_of(file, Path(folder) / "spool", found)
        from memtrace.finalise import finalise

        if refused := finalise(Path(folder), progress=True).refused:
            raise MemtraceError(refused[0])
    except BaseException:
        take_back(folder)
        raise
    forget_replaced(folder)
    return Imported(Path(folder), found, lacks)


def _name(file: Path) -> str:
    """Of "worker0.pt.trace.json.gz": worker0."""
    name = Path(file.name.removesuffix(_COMPRESSED)).stem
    for suffix in _OF_TRACES:
        name = name.removesuffix(suffix) or name
    return name
