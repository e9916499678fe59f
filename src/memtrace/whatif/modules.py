"""The modules that a trace knows by their paths, and which requests are theirs."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from memtrace.analyse.counters import Flags
from memtrace.errors import MemtraceError, readable
from memtrace.replay.requests import Requests

_MOST_NAMED = 4


def flags_of(table: pa.Table, column: str, holds: Callable[[str | None], bool]) -> Flags:
    """For which rows something holds of a column's word (None: it has none)."""
    words = table.column(column).combine_chunks()
    if not pa.types.is_dictionary(words.type):
        words = words.dictionary_encode()
    held = np.array([holds(word) for word in words.dictionary.to_pylist()] + [holds(None)])
    codes = pc.fill_null(words.indices.cast(pa.int64()), pa.scalar(-1))
    found: Flags = held[np.asarray(codes)]
    return found


def rows_of(requests: Requests, path: str) -> Flags:
    """What was allocated by a module or one inside it, for it, or for its backward.

    A workspace that torch keeps for cuBLAS is no module's: whoever is first to need it asks for it.
    """
    inside = path + "."
    found = flags_of(
        requests.rows,
        "module",
        lambda word: word is not None and (word == path or word.startswith(inside)),
    )
    return found & ~workspaces(requests)


def workspaces(requests: Requests) -> Flags:
    """What torch keeps for cuBLAS and the like."""
    return flags_of(requests.rows, "category", lambda word: word == "workspace")


def choose_modules(requests: Requests, text: str) -> tuple[str, ...]:
    """The paths that a pattern stands for, none inside another, in the order of first requests.

    `*` and `?` stand for anything but a dot, `[12]` for one of these. A pattern may leave out the
    beginning of the paths: `h.1` is transformer.h.1 too, unless there is an h.1 itself.

    Raises:
        MemtraceError: there is no such module.
    """
    paths = _paths(requests)
    wanted = _pattern(text)
    found = [path for path in paths if wanted.fullmatch(path)]
    if not found:
        found = [path for path in paths if any(wanted.fullmatch(tail) for tail in _tails(path))]
    if not found:
        raise MemtraceError(
            f"no module {readable(text)} asked for memory on {requests.device}"
            f"{_near(text, list(paths))}"
        )
    return tuple(
        path
        for path in found
        if not any(path.startswith(outer + ".") for outer in found if outer != path)
    )


def named(paths: Sequence[str]) -> str:
    """Paths for a sentence; of many, the first and the last."""
    if len(paths) <= _MOST_NAMED:
        return ", ".join(paths)
    return f"{len(paths)} modules from {paths[0]} to {paths[-1]}"


def _paths(requests: Requests) -> dict[str, None]:
    """Every path that a request names, and those of the modules around it."""
    column = requests.rows.column("module").combine_chunks()
    names = column.unique().to_pylist() if len(column) else []
    roots = set(_root_modules(requests))
    paths: dict[str, None] = {}
    for name in names:
        if name is None or name in roots:
            continue
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            paths.setdefault(".".join(parts[:length]))
    return paths


def _root_modules(requests: Requests) -> list[str | None]:
    roots: list[str | None] = []
    for group in requests.trace.datasets["steps"].row_groups(requests.process.key):
        roots += group.read(["root_module"]).column("root_module").unique().to_pylist()
    return roots


def _pattern(text: str) -> re.Pattern[str]:
    parts = []
    for piece in re.findall(r"\[[^][.]+\]|.", text.strip(".")):
        if piece == "*":
            parts.append("[^.]+")
        elif piece == "?":
            parts.append("[^.]")
        elif len(piece) > 1:
            parts.append(f"[{re.escape(piece[1:-1])}]")
        else:
            parts.append(re.escape(piece))
    return re.compile("".join(parts))


def _tails(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[begin:]) for begin in range(1, len(parts))]


def _near(text: str, paths: list[str]) -> str:
    if not paths:
        return ": this trace names no modules"
    # A wrong beginning is as likely as a wrong end: the last parts of the paths are compared too.
    depth = text.count(".") + 1
    ends = {".".join(path.split(".")[-depth:]): path for path in reversed(paths)}
    close = difflib.get_close_matches(text, [*paths, *ends], n=3 * _MOST_NAMED, cutoff=0.5)
    named = list(dict.fromkeys(ends.get(word, word) for word in close))[:_MOST_NAMED]
    if not named:
        named = sorted(paths, key=lambda path: (path.count("."), len(path)))[:_MOST_NAMED]
    return f" (there are {', '.join(named)}{', …' if len(paths) > len(named) else ''})"
