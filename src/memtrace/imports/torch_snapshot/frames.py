"""Frames of a snapshot, as stacks of ours: each distinct one once, with what it names.

torch shares one list of frames among all events of a stack, and one dict among all lists that hold
the frame, so that most stacks are known by the identity of their list.
"""

from __future__ import annotations

import re
from typing import Any

from memtrace.imports.stacks import Frame, Stack, owning_operator

#: Files of frames that `memtrace export --to snapshot` adds: what they name is not a line.
OPERATOR_FILE = "<operator>"
MODULE_FILE = "<module>"

_DISPATCH = re.compile(r"at::_ops::(\w+)::(?:call|redispatch)\b")
# An operator's class is its name and overload joined: add_Tensor, empty_memory_format.
_OVERLOAD = re.compile(r"_(?:[A-Z]\w*|memory_format|out|dim|int|names|self|dtype|other|low)$")
_NATIVE_FILE = re.compile(r"\.(?:c|cc|cpp|cxx|cu|cuh|h|hh|hpp|inc|so[.\d]*|S)$")
_MOST_FRAMES = 512  # as the recorder's own walk
_MOST_LINE = (1 << 31) - 1


class Stacks:
    """The distinct stacks of a snapshot. Number 0 is none."""

    def __init__(self) -> None:
        self.distinct: list[Stack] = [Stack()]
        self._by_list: dict[int, int] = {}
        self._by_frames: dict[tuple[int, ...], int] = {}
        self._by_stack: dict[Stack, int] = {self.distinct[0]: 0}
        self._frames: dict[int, tuple[str, str, int]] = {}

    def number(self, frames: Any) -> int:
        """The number of a list of frames. The lists and dicts must outlive this object."""
        known = self._by_list.get(id(frames))
        if known is not None:
            return known
        number = 0
        if isinstance(frames, list) and frames:
            key = tuple(map(id, frames))
            found = self._by_frames.get(key)
            number = self._add(frames) if found is None else found
            self._by_frames[key] = number
        self._by_list[id(frames)] = number
        return number

    def _add(self, frames: list[Any]) -> int:
        stack = _stack([self._frame(frame) for frame in frames[:_MOST_FRAMES]])
        number = self._by_stack.setdefault(stack, len(self.distinct))
        if number == len(self.distinct):
            self.distinct.append(stack)
        return number

    def _frame(self, frame: Any) -> tuple[str, str, int]:
        known = self._frames.get(id(frame))
        if known is None:
            known = self._frames[id(frame)] = _plain(frame)
        return known


def _plain(frame: Any) -> tuple[str, str, int]:
    if not isinstance(frame, dict):
        return ("?", "?", 0)
    function, file, line = frame.get("name"), frame.get("filename"), frame.get("line")
    return (
        function if isinstance(function, str) else "?",
        file if isinstance(file, str) else "?",
        line if isinstance(line, int) and 0 <= line <= _MOST_LINE else 0,
    )


def _stack(frames: list[tuple[str, str, int]]) -> Stack:
    operators: list[str] = []
    kept: list[Frame] = []
    module: tuple[str, str] | None = None
    for function, file, line in frames:
        if file == OPERATOR_FILE:
            operators.append(function)
        elif file == MODULE_FILE:
            module = _module(function)
        elif (found := _DISPATCH.search(function)) is not None:
            operators.append("aten::" + _OVERLOAD.sub("", found.group(1)))
        elif not _is_native(file, line):
            kept.append(Frame(function, file, line, module))
            module = None
    if module is not None:  # and no line of Python
        kept.append(Frame("forward", MODULE_FILE, 0, module))
    if not kept and not operators:
        kept = [Frame(*frame) for frame in frames]
    outermost = operators[-1] if operators else ""
    return Stack(tuple(kept), owning_operator(operators), outermost)


def _module(text: str) -> tuple[str, str]:
    path, _, class_name = text.partition(" ")
    return path, class_name.strip("()")


def _is_native(file: str, line: int) -> bool:
    return line == 0 or file in ("", "??") or _NATIVE_FILE.search(file) is not None
