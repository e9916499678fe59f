"""Stacks of a file that is imported: Python's frames, and the operators that were running."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: Operators that only make memory for the one that called them.
FACTORIES = frozenset(
    {
        "aten::empty", "aten::empty_strided", "aten::empty_like", "aten::resize_",
        "aten::new_empty", "aten::new_empty_strided", "aten::resize_as_", "aten::empty_permuted",
        "aten::_empty_affine_quantized",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Frame:
    """A line of Python; `module` names the module whose call the frame is in: path and class."""

    function: str
    file: str
    line: int
    module: tuple[str, str] | None = None


@dataclass(frozen=True)
class Stack:
    """Python frames, innermost first, and the operators that the C++ frames name."""

    frames: tuple[Frame, ...] = ()
    operator: str = ""
    top_operator: str = ""


def owning_operator(operators: Sequence[str]) -> str:
    """Of running operators, innermost first: the innermost that is no factory, else the outermost.

    "" of none.
    """
    owner = next((name for name in operators if name not in FACTORIES), None)
    return owner or (operators[-1] if operators else "")
