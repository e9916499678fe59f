"""Tensors that die in another thread, after their recording has stopped, and in the next one.

    python frees_elsewhere.py FOLDER     (not under memtrace)

Records FOLDER/1.memtrace and FOLDER/2.memtrace; prints what it held after each.
"""

from __future__ import annotations

import queue
import sys
import threading

import torch

import memtrace

FIRST_BYTES = 10_000  # no other tensor of the program is as large
COUNT = 500
tensors: queue.Queue[torch.Tensor | None] = queue.Queue()


def tensor(number: int) -> torch.Tensor:
    return torch.full((FIRST_BYTES + number,), number % 7, dtype=torch.uint8)


def free_what_comes() -> None:
    while (one := tensors.get()) is not None:
        assert int(one[-1]) == (one.numel() - FIRST_BYTES) % 7
        del one


def main() -> None:
    folder = sys.argv[1]
    other = threading.Thread(target=free_what_comes)
    other.start()
    with memtrace.record(f"{folder}/1.memtrace"):
        for number in range(COUNT):
            tensors.put(tensor(number))  # dies in the other thread
        tensors.put(None)
        other.join()
        stays = [tensor(COUNT + i) for i in range(COUNT)]
        print(len(stays), flush=True)
    del stays[: COUNT // 2]  # between the recordings, in this thread and another
    freeing = threading.Thread(target=lambda: stays.__delitem__(slice(0, 50)))
    freeing.start()
    freeing.join()
    between = [tensor(3 * COUNT + i) for i in range(100)]
    with memtrace.record(f"{folder}/2.memtrace"):
        print(len(stays), len(between), flush=True)
        more = [tensor(4 * COUNT + i) for i in range(COUNT)]
        del stays[:100]
        del between[:]
        freeing = threading.Thread(target=more.clear)
        freeing.start()
        freeing.join()
        print(len(stays), flush=True)
    print(sum(int(one.sum()) for one in stays))  # they are what they were


main()
