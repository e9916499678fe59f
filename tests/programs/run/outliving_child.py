"""Leaves a child behind that lives on."""

from __future__ import annotations

import os
import time

if os.fork() == 0:
    os.closerange(0, 3)
    time.sleep(float(os.environ["OUTLIVE_S"]))
    os._exit(0)
print("parent ends")
