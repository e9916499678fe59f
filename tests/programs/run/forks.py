"""A hundred forks, each with its own status; some of them fork again, some exec."""

from __future__ import annotations

import os
import sys

statuses = []
for i in range(100):
    pid = os.fork()
    if pid == 0:
        if i % 10 == 0:
            grandchild = os.fork()
            if grandchild == 0:
                os._exit(1)
            os.waitpid(grandchild, 0)
        if i % 10 == 1:
            os.execv("/bin/sh", ["sh", "-c", f"exit {i}"])
        if i % 10 == 2:
            sys.exit(i)
        os._exit(i)
    statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
print(statuses == list(range(100)))
