"""Sub-interpreters beside torch: each runs Python's start-up, and the program's code, by itself."""

from __future__ import annotations

import torch

try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters

CODE = """
import sys
print(sorted(name for name in sys.modules if name.startswith("memtrace")))



print("ran", sum(len(str(i)) for i in range(1000)), flush=True)
"""


def create():
    try:
        return interpreters.create("legacy")
    except TypeError:
        return interpreters.create(isolated=False)


kept = []
for i in range(20):
    other = create()
    kept.append(torch.empty(10_000 + i, dtype=torch.uint8))
    interpreters.run_string(other, CODE)
    try:
        interpreters.run_string(other, "raise ValueError('in there')")
    except interpreters.RunFailedError as error:
        print(error)
    kept.append(torch.empty(20_000 + i, dtype=torch.uint8))
    interpreters.destroy(other)
print(len(kept), sum(tensor.numel() for tensor in kept))
