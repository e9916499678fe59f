"""Every kind of file that can be imported: its name, how it is known, and where its code is."""

from __future__ import annotations

import gzip
import importlib
import zlib
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from memtrace.errors import MemtraceError

if TYPE_CHECKING:
    from collections.abc import Iterator

_GZIP = b"\x1f\x8b"
_HEAD_BYTES = 4096
_PIECE_BYTES = 1 << 20
_MOST_UNPACKED = 100  # times; a snapshot is 10 to 20 times as long, a file of zeros 1000 times

#: Reads a file, writes a spool of each process into the folder (`process=KEY`), and returns what
#: the file does not tell, a line each. Raises MemtraceError: it is damaged, or no such file.
Convert = Callable[[Path, Path], list[str]]


@dataclass(frozen=True)
class Format:
    """A kind of file; `module` has `convert`.

    Attributes:
        name: what --format is given.
        begins: whether a file of this kind may begin so.
        kept: whether all of it is in memory at once, not a part after the other.
    """

    name: str
    what: str
    module: str
    begins: Callable[[bytes], bool]
    kept: bool = False

    def load(self) -> Convert:
        """Imports the code."""
        return cast(Convert, importlib.import_module(self.module).convert)


def _is_dat(head: bytes) -> bool:
    return head.startswith((b"CMDLINE ", b"MEM ", b"FUNC ", b"CHLD "))


def _is_json(head: bytes) -> bool:
    """An object, or a list of events. A pickle of a list is "]" or "(l"."""
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[")


def _is_anything(head: bytes) -> bool:  # noqa: ARG001
    return True


#: In the order that they are asked in: what is none of the others may be a pickle.
FORMATS = (
    Format("mprof", "memory_profiler's .dat", "memtrace.imports.mprof.convert", _is_dat),
    Format("chrome", "a Chrome trace", "memtrace.imports.chrome_trace.convert", _is_json),
    Format(
        "snapshot",
        "torch's memory snapshot",
        "memtrace.imports.torch_snapshot.convert",
        _is_anything,
        kept=True,
    ),
)
NAMES = tuple(kind.name for kind in FORMATS)


def format_of(path: Path, name: str | None = None) -> Format:
    """The kind called so, or the one that the file's first bytes tell.

    Raises:
        OSError: the file cannot be read.
    """
    if name is not None:
        return next(kind for kind in FORMATS if kind.name == name)
    try:
        with opened(path) as file:
            head = file.read(_HEAD_BYTES)
    except MemtraceError:
        head = b""
    return next(kind for kind in FORMATS if kind.begins(head))


def is_compressed(path: Path) -> bool:
    """Whether it is a gzip file."""
    with path.open("rb") as file:
        return file.read(len(_GZIP)) == _GZIP


def unpacked_bytes(path: Path) -> int:
    """How long the file is, a gzip file when it is read.

    Raises:
        MemtraceError: a gzip file is damaged, or of a kind that only fills memory.
    """
    packed = path.stat().st_size
    if not is_compressed(path):
        return packed
    length = 0
    with opened(path) as file:
        while piece := file.read(_PIECE_BYTES):
            length += len(piece)
            if length > _MOST_UNPACKED * packed:
                raise MemtraceError(f"it is more than {_MOST_UNPACKED} times as long unpacked")
    return length


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, those of a gzip file as they are read.

    Raises:
        MemtraceError: within the block, where a gzip file is damaged or cut off.
    """
    if not is_compressed(path):
        with path.open("rb") as file:
            yield file
        return
    try:
        with gzip.open(path, "rb") as unpacked:
            yield cast("IO[bytes]", unpacked)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise MemtraceError(f"it cannot be read to its end ({error})") from None
