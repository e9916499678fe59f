"""A program that ends eleven seconds before its child, which has recorded some ten megabytes."""

from __future__ import annotations

import subprocess
import sys

CHILD = """
import time, torch
for i in range(100_000):
    torch.empty(i % 99 + 1)
print("recorded", flush=True)
time.sleep(11)
"""

if __name__ == "__main__":
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
