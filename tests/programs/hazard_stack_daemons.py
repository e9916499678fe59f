"""Ends while daemon threads are in C without the GIL and take stacks all the time."""

from __future__ import annotations

import threading
import time

import memtrace_stack_testing as stacks

stacks.start()


def work(left: int) -> None:
    tensor = stacks.Tensor()
    if left:
        work(left - 1)
    else:
        stacks.take_for_ever()
    assert tensor


class Slow:
    """Keeps the interpreter in its teardown while the daemons go on."""

    def __del__(self, sleep=time.sleep) -> None:
        sleep(0.05)


slow = Slow()
for _ in range(6):
    threading.Thread(target=work, args=(30,), daemon=True).start()
time.sleep(0.2)
print("ok", flush=True)
