"""Two children of 30 MiB each, beside 40 MiB of its own."""

from __future__ import annotations

import multiprocessing
import time


def child() -> None:
    held = bytearray(30 << 20)
    time.sleep(0.5)
    del held


if __name__ == "__main__":
    workers = [multiprocessing.Process(target=child) for _ in range(2)]
    for worker in workers:
        worker.start()
    held = bytearray(40 << 20)
    time.sleep(0.4)
    del held
    for worker in workers:
        worker.join()
