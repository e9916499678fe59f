"""Loads 40 MiB, then takes 10, 15 and 20 MiB more for a moment."""

from __future__ import annotations

import time


@profile  # noqa: F821
def load() -> bytearray:
    time.sleep(0.1)
    weights = bytearray(40 << 20)
    time.sleep(0.15)
    return weights


@profile  # noqa: F821
def step(mebibytes: int) -> int:
    scratch = bytearray(mebibytes << 20)
    time.sleep(0.12)
    return len(scratch)


@profile  # noqa: F821
def work() -> None:
    weights = load()
    for mebibytes in (10, 15, 20):
        step(mebibytes)
    del weights


work()
