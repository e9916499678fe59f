"""A program and two children of it, each of which holds something until the line `end`."""

from __future__ import annotations

import subprocess
import sys

import torch

CHILD = "import sys, torch; held = torch.empty(int(sys.argv[1])); print(flush=True); input()"

children = [
    subprocess.Popen(
        [sys.executable, "-c", CHILD, size],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    for size in ("1000", "10000")
]
held = torch.empty(100_000)
for child in children:
    child.stdout.readline()
print("{}", flush=True)
sys.stdin.readline()
for child in children:
    child.communicate("\n")
