"""A program that reaps its own children sees those and no other."""

from __future__ import annotations

import os

try:
    print(os.wait())
except ChildProcessError as error:
    print("no children:", error)
pid = os.fork()
if pid == 0:
    os._exit(3)
reaped, status = os.waitpid(-1, 0)
print(reaped == pid, os.waitstatus_to_exitcode(status))
try:
    os.waitpid(-1, 0)
except ChildProcessError:
    print("no more")
print(open(f"/proc/self/task/{os.getpid()}/children").read() == "")
