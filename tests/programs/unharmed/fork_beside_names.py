"""Forks while other threads make new names of operators without end; each child runs one."""

from __future__ import annotations

import os
import sys
import threading

import torch

FORKS = 60
stop = threading.Event()


def name_without_end(thread: int) -> None:
    i = 0
    while not stop.is_set():
        i += 1
        with torch.profiler.record_function(f"step {thread} {i}"):
            torch.zeros(3)


threads = [threading.Thread(target=name_without_end, args=(k,)) for k in range(3)]
for thread in threads:
    thread.start()
for _ in range(FORKS):
    child = os.fork()
    if child == 0:
        torch.zeros(10).add_(1)
        os._exit(0)
    os.waitpid(child, 0)
stop.set()
for thread in threads:
    thread.join()
print(FORKS, "children ended")
sys.stdout.flush()
