"""A pickle of plain values, read without running any of it.

A pickle is a program: it may name any function and have it called. All such names go through
`find_class`, which refuses every one. What is left are opcodes that make None, numbers, text,
bytes, lists, tuples, dicts and sets. They can still ask for endless memory, or nest until the C
stack ends: so this runs in a process with limits (reader.py).
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, NoReturn

from memtrace.errors import MemtraceError
from memtrace.imports.formats import opened

_PROTOCOLS = range(6)
_PROTO = 0x80


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> NoReturn:
        raise MemtraceError(f"it asks for {module}.{name}, which no memory snapshot needs")

    def persistent_load(self, pid: Any) -> NoReturn:  # noqa: ARG002
        raise MemtraceError("it refers to objects outside of the file")


def read_plain(path: Path) -> Any:
    """The value of a pickle file, in gzip or not.

    Raises:
        MemtraceError: one line that says what is wrong; the caller names the file.
    """
    with opened(path) as file:
        head = file.read(2)
        if not head:
            raise MemtraceError("it is empty")
        if head[0] == _PROTO and len(head) == 2 and head[1] not in _PROTOCOLS:
            raise MemtraceError(f"it is a pickle of protocol {head[1]}, newer than any known one")
        file.seek(0)
        try:
            return _PlainUnpickler(file, encoding="utf-8", errors="replace").load()
        except MemtraceError:
            raise
        except MemoryError:
            raise MemtraceError("it asks for more memory than a file of its size needs") from None
        except Exception as error:  # of the two dozen that C and Python raise for a bad pickle
            raise MemtraceError(f"it is not a pickle, or a damaged one ({error})") from None
