"""A DataLoader with workers: each worker's own account is written beside the main process's."""

from __future__ import annotations

import os
import sys

import held_storages
import torch
from torch.utils.data import DataLoader, Dataset

at_fork: dict[str, list[tuple[int, int]]] = {}
kept: list[torch.Tensor] = []


class Squares(Dataset[torch.Tensor]):
    """Makes a tensor per item, and keeps some for good."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> torch.Tensor:
        item = torch.full((index + 100,), float(index))
        if index % 3 == 0:
            kept.append(item.clone())
        if index >= 16:  # the last batch of each worker
            with held_storages.memtrace.stage(f"item {index}"):
                account = held_storages.held(without=at_fork)
            held_storages._marks.append({"name": f"item {index}", **account})
            held_storages.write(f"{sys.argv[1]}.{os.getpid()}")
        return item[:100]


def begin_worker(_: int) -> None:
    at_fork.update(held_storages.held())


def main() -> None:
    inherited = torch.ones(1000)
    loader = DataLoader(Squares(), batch_size=4, num_workers=2, worker_init_fn=begin_worker)
    total = inherited.sum()
    for batch in loader:
        total = total + batch.sum()
        held_storages.mark("batch")
    del batch
    held_storages.mark("end")
    held_storages.write(sys.argv[1])


main()
