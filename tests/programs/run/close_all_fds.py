"""Closes every descriptor, as daemons do, and writes files under numbers that were ours."""

from __future__ import annotations

import os
import sys

first = os.open("/dev/null", os.O_RDONLY)
print("next free number", first)
os.closerange(3, 4096)
paths = [f"{sys.argv[1]}.{i}" for i in range(40)]
fds = [os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC) for path in paths]
for fd in fds:
    os.write(fd, b"mine")
try:
    import torch

    for i in range(2000):
        torch.zeros(64).add(1)
    print("torch")
except ImportError:
    print("no torch")
for fd, path in zip(fds, paths):
    os.close(fd)
    assert open(path, "rb").read() == b"mine", path
    os.unlink(path)
print("done")
