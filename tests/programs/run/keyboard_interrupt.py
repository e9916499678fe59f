"""Waits to be interrupted from outside; argv[1] says what it does about it."""

from __future__ import annotations

import sys
import time

print("ready", flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    if sys.argv[1] == "caught":
        print("caught")
        sys.exit(3)
    raise
