"""Forks with CUDA up: what torch lets a child do, and what it frees there of its parent's.

A spawned child uses the device anew. Prints what each did, in order.
"""

from __future__ import annotations

import multiprocessing
import os
import sys

import torch

MIB = 1 << 20
kept = [torch.empty((i + 1) * MIB, dtype=torch.uint8, device="cuda") for i in range(5)]


def in_child() -> None:
    """Tensors of its own on the CPU; those of the parent's are let go; CUDA refuses."""
    own = [torch.empty(10_000 + i, dtype=torch.uint8) for i in range(20)]
    try:
        torch.empty(MIB, device="cuda")
    except RuntimeError as error:
        print("child:", str(error).split(",")[0], len(own), flush=True)
    kept.clear()


def spawned() -> None:
    kept.append(torch.empty(7 * MIB, dtype=torch.uint8, device="cuda"))
    print("spawned:", sum(tensor.numel() for tensor in kept) // MIB, flush=True)


def main() -> None:
    for end in ("os._exit", "sys.exit"):
        child = os.fork()
        if child == 0:
            in_child()
            os._exit(3) if end == "os._exit" else sys.exit(4)
        print(end, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    for method in ("fork", "spawn"):
        process = multiprocessing.get_context(method).Process(
            target=in_child if method == "fork" else spawned
        )
        process.start()
        process.join()
        print(method, process.exitcode, flush=True)
    kept.append(torch.empty(9 * MIB, dtype=torch.uint8, device="cuda"))
    print("parent:", sum(tensor.numel() for tensor in kept) // MIB, flush=True)


if __name__ == "__main__":
    main()
