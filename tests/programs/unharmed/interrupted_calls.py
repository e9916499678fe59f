"""Ctrl-C in each native call, one after the other, that memtrace makes for a call of the program.

    python interrupted_calls.py WHAT FOLDER     (not under memtrace)

A handler runs between two bytecodes, and time passes in native calls: Python's own profile function
is called where the handler of a signal would be that came during one. Says how many there were.
"""

from __future__ import annotations

import builtins
import os
import shutil
import sys
import threading
import time
from contextvars import ContextVar

import torch

import memtrace
from memtrace import recording, session
from memtrace.steps import current_step

FOLDER = sys.argv[2]
MODEL = torch.nn.Linear(4, 4)
ENVIRONMENT = dict(os.environ)
# In these, and in methods of these, no time passes.
QUICK = (time.monotonic_ns, threading.get_ident, *vars(builtins).values())
QUICK_CLASSES = (dict, list, str, tuple, set, ContextVar)


class Interrupt:
    """A Ctrl-C in the given native call of memtrace's; the first is 0, and one of a line counts."""

    def __init__(self, number: int) -> None:
        self.left = number
        self.lines = set()

    def __call__(self, frame, event, function) -> None:
        if event != "c_return" or function in QUICK:
            return
        if isinstance(getattr(function, "__self__", None), QUICK_CLASSES):
            return
        if not frame.f_globals["__name__"].startswith("memtrace."):
            return
        line = frame.f_code, frame.f_lineno
        if line in self.lines:
            return
        self.lines.add(line)
        self.left -= 1
        if self.left < 0:
            sys.setprofile(None)
            raise KeyboardInterrupt


def interrupted(number: int, action) -> bool:
    """Whether it came before the action was done; it must arrive."""
    interrupt = Interrupt(number)
    sys.setprofile(interrupt)
    try:
        action()
    except KeyboardInterrupt:
        return True
    finally:
        sys.setprofile(None)
    assert interrupt.left >= 0, f"interrupt {number} was lost"
    return False


def nothing_is_left() -> None:
    from memtrace.hook import installed

    assert recording.current() is None
    assert installed._native is None or not installed._native.recording()
    assert dict(os.environ) == ENVIRONMENT
    assert not [finder for finder in sys.meta_path if "memtrace" in type(finder).__module__]


def all_is_recorded(path: str) -> None:
    """What the recording that is on now writes is there."""
    at = memtrace.open(path).allocations.to_pylist()
    assert 12345 in {row["size_bytes"] for row in at}, path


def kept() -> torch.Tensor:
    return torch.empty(12345, dtype=torch.uint8)


def begins(number: int) -> bool:
    """It is as if record() had not been called, also where it was to replace a trace."""
    path = f"{FOLDER}/begins.memtrace"
    if not os.path.isdir(path):
        with memtrace.record(path):
            kept()
    before = sorted(os.listdir(path))
    block = memtrace.record(path, force=True)
    came = interrupted(number, block.start)
    if not came:
        block.stop()
        return False
    nothing_is_left()
    # Of the trace to be replaced there is all; or nothing, when it was being deleted already.
    there = {name: sorted(os.listdir(f"{FOLDER}/{name}")) for name in os.listdir(FOLDER)}
    assert there in ({"begins.memtrace": before}, {}), there
    MODEL(torch.ones(2, 4))
    return True


def ends(number: int) -> bool:
    """It ends all the same, and is finished."""
    finalise, finished = session._finalise, []
    session._finalise = finished.append
    try:
        block = memtrace.record(f"{FOLDER}/{number}.memtrace")
        block.start()
        MODEL(torch.ones(2, 4))
        held = kept()
        came = interrupted(number, block.stop)
    finally:
        session._finalise = finalise
    nothing_is_left()
    assert finished == [block.path], (number, finished)
    if number % 20 == 0 or not came:
        session._finalise(block.path)
        all_is_recorded(block.path)
        (row,) = memtrace.open(block.path).processes.to_pylist()
        assert (row["complete"], row["end_reason"]) == (True, "stopped"), row
    del held
    shutil.rmtree(block.path)
    return came


def in_block(block) -> None:
    with block:
        pass


def set_to_and_fro() -> None:
    try:
        memtrace.pause()
    finally:
        memtrace.resume()


def marks() -> int:
    """What is marked lasts no longer than its block, and a pause no longer than it is wanted."""
    actions = {
        "paused": lambda: in_block(memtrace.paused()),
        "pause": set_to_and_fro,
        "step": lambda: in_block(memtrace.step("step")),
        "stage": lambda: in_block(memtrace.stage("stage")),
    }
    after = []
    with memtrace.record(f"{FOLDER}/marks.memtrace") as block:
        MODEL(torch.ones(2, 4))
        recorded = recording.current()
        for name, action in actions.items():
            number = 0
            while interrupted(number, action):
                number += 1
                assert (recorded.is_paused, recorded.pauses.wanted) == (False, False), name
                assert current_step.get() == 0, name
                assert recorded.stages.innermost() is None, name
                after.append(torch.empty(10_000 + len(after), dtype=torch.uint8))
    trace = memtrace.open(block.path)
    rows = {row["size_bytes"]: row for row in trace.allocations.to_pylist()}
    found = [rows[len(each)] for each in after]
    assert {(row["step"], row["stage"]) for row in found} == {(None, None)}
    assert None not in trace.steps["end_time_ns"].to_pylist()
    return len(after)


def main() -> None:
    if sys.argv[1] == "marks":
        print(marks())
        return
    number = 0
    while {"begins": begins, "ends": ends}[sys.argv[1]](number):
        number += 1
    print(number)


main()
