"""Forks two children and waits until there are none, as the first process of a container may."""

from __future__ import annotations

import os
import sys

for status in range(2):
    if os.fork() == 0:
        os._exit(status)
reaped = 0
while True:
    try:
        os.wait()
    except ChildProcessError:
        break
    reaped += 1
print("reaped", reaped, flush=True)
sys.exit(int(sys.argv[1]))
