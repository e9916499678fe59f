"""Python threads that allocate at the same time, each on its own stream; frees cross threads."""

from __future__ import annotations

import queue
import threading

import torch

SINGLE_THREADED = False

ROUNDS = 40


def produce(outbox: queue.Queue[torch.Tensor | None], seed: int) -> None:
    """Allocates, frees half of it here, and hands the other half over."""
    generator = torch.Generator().manual_seed(seed)
    with torch.cuda.stream(torch.cuda.Stream()):
        for turn in range(ROUNDS):
            size = int(torch.randint(1, 4 << 20, (1,), generator=generator))
            tensor = torch.empty(size, dtype=torch.uint8, device="cuda")
            if turn % 2:
                outbox.put(tensor)
            del tensor
    outbox.put(None)


def main() -> None:
    """Runs three producers and one thread that frees."""
    torch.cuda.init()
    outbox: queue.Queue[torch.Tensor | None] = queue.Queue()
    threads = [threading.Thread(target=produce, args=(outbox, seed)) for seed in range(3)]
    for thread in threads:
        thread.start()
    finished = 0
    while finished < len(threads):
        finished += outbox.get() is None
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
