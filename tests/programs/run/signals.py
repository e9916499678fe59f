"""Dies by the signal of argv[1], sent by itself; "handled" ones end in order."""

from __future__ import annotations

import os
import signal
import sys
import time

name, *rest = sys.argv[1:]
number = getattr(signal, name)
if "handled" in rest:
    signal.signal(number, lambda *_: sys.exit(9))
if "ignored" in rest:
    signal.signal(number, signal.SIG_IGN)
print(name, signal.getsignal(signal.SIGPIPE), signal.getsignal(signal.SIGINT), flush=True)


def inner() -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.2)


inner()
print("survived")
