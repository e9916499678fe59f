"""Threads that allocate, resize and hand tensors to each other; what one made another frees."""

from __future__ import annotations

import queue
import random
import sys
import threading

import held_storages
import torch

THREADS = 4
ROUNDS = 3
STEPS = 400


def work(number: int, mailbox: queue.SimpleQueue[torch.Tensor], barrier: threading.Barrier) -> None:
    chance = random.Random(number)
    mine: list[torch.Tensor] = []
    for _ in range(ROUNDS):
        for _ in range(STEPS):
            action = chance.random()
            if action < 0.5 or not mine:
                mine.append(torch.zeros(chance.randrange(1, 5000)))
            elif action < 0.6:
                mine[-1].resize_(chance.randrange(1, 9000))
            elif action < 0.7:
                mailbox.put(mine.pop())
            elif action < 0.8:
                try:
                    mine.append(mailbox.get_nowait() + 1)
                except queue.Empty:
                    pass
            else:
                del mine[chance.randrange(len(mine))]
        barrier.wait()
        if number == 0:
            held_storages.mark("round")
        barrier.wait()


def main() -> None:
    mailbox: queue.SimpleQueue[torch.Tensor] = queue.SimpleQueue()
    barrier = threading.Barrier(THREADS)
    for _ in range(2):  # the second threads get the logs of the first
        threads = [
            threading.Thread(target=work, args=(i, mailbox, barrier)) for i in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        held_storages.mark("joined")
    while not mailbox.empty():
        mailbox.get()
    held_storages.mark("end")
    held_storages.write(sys.argv[1])


main()
