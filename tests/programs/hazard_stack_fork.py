"""Forks while other threads are in the middle of walks and first sights."""

from __future__ import annotations

import os
import threading

import memtrace_stack_testing as stacks

stacks.start()
stop = threading.Event()


def fresh(take, i):
    space = {}
    exec(compile(f"def f{i}(take):\n    return take()\n", f"{i}.py", "exec"), space)
    return space[f"f{i}"](take)


def work(label: int) -> None:
    i = 0
    while not stop.is_set():
        i += 1
        fresh(stacks.take_without_gil, label * 1_000_000 + i)


threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
for thread in threads:
    thread.start()
bad = 0
for i in range(60):
    child = os.fork()
    if child == 0:
        stacks.start()
        shown = stacks.frames(fresh(stacks.take_without_gil, i))[0][0]
        stacks.uninstall()
        os._exit(0 if shown == f"f{i}" else 1)
    _, status = os.waitpid(child, 0)
    bad += status != 0
stop.set()
for thread in threads:
    thread.join()
print("ok" if bad == 0 else f"{bad} children failed", flush=True)
