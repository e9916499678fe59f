"""Takes stacks at every moment of a program's end: atexit, __del__, module teardown, exit()."""

from __future__ import annotations

import atexit
import sys
import threading

import memtrace_stack_testing as stacks
from fake_module import Leaf

take, frames, write, flush = stacks.take, stacks.frames, sys.stdout.write, sys.stdout.flush


def at_exit_before() -> None:
    assert frames(take())[0][0] == "at_exit_before"
    threading.Thread(target=lambda: write(f"thread in atexit: {take()}\n")).start()


def at_exit_after() -> None:
    assert frames(take())[0][0] == "at_exit_after"
    write("ok\n")
    flush()


class TakesAtTheEnd:
    tensor = stacks.Tensor()

    def __del__(self, take=take, write=write, flush=flush) -> None:
        write(f"del: {'some' if take() else 'none'}\n")
        flush()


atexit.register(at_exit_after)  # runs after the walks of other threads were stopped
stacks.start()
stacks.install_modules(Leaf)
atexit.register(at_exit_before)
stacks.take_at_c_exit()
sys.memtrace_kept = TakesAtTheEnd()  # type: ignore[attr-defined]
here = TakesAtTheEnd()
cycle = [TakesAtTheEnd()]
cycle.append(cycle)  # type: ignore[arg-type]
leaf = Leaf(take)
leaf()
