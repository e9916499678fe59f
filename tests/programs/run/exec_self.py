"""Replaces itself, first by another Python, then by another program."""

from __future__ import annotations

import os
import sys

print(sys.argv[1:], flush=True)
if sys.argv[1:] == ["again"]:
    os.execv("/bin/sh", ["sh", "-c", "echo shell; exit 5"])
try:
    os.execv("/no/such/program", ["x"])
except FileNotFoundError:
    print("goes on", flush=True)
os.execv(sys.executable, [sys.executable, __file__, "again"])
