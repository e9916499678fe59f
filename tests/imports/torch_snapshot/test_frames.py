"""Frames of torch's snapshots: what of a stack is a line of the program."""

from __future__ import annotations

from typing import Any

import pytest

from memtrace.imports.stacks import Frame
from memtrace.imports.torch_snapshot.frames import Stacks

MATMUL = {"name": "at::_ops::mm::call(at::Tensor const&)", "filename": "Operators.cpp", "line": 0}
LINE = {"name": "step", "filename": "train.py", "line": 7}


@pytest.mark.parametrize("file", ["../sysdeps/unix/sysv/linux/x86_64/clone3.S", "pthread_create.c"])
def test_a_thread_of_autograd_has_no_line_of_the_program(file: str) -> None:
    assert known([MATMUL, {"name": "clone3", "filename": file, "line": 81}]) == ()


def test_lines_of_python_are_kept() -> None:
    assert known([MATMUL, LINE]) == (Frame("step", "train.py", 7),)


def known(frames: list[dict[str, Any]]) -> tuple[Frame, ...]:
    stacks = Stacks()
    return stacks.distinct[stacks.number(frames)].frames
