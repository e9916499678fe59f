"""Leaves a daemon that holds nothing of its parent's open; it ends when it finds a file."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

ended = Path(sys.argv[1])
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    null = os.open("/dev/null", os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.closerange(3, 1024)
    deadline = time.monotonic() + 9
    while not ended.with_name("go").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    ended.touch()
    sys.exit(0)
os.wait()
print("main ends")
