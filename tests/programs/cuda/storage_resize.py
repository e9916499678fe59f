"""One tensor, several lives of its storage: resized to nothing and back, swapped, grown."""

from __future__ import annotations

import torch

SINGLE_THREADED = True


def main() -> None:
    """Does to a tensor what sharded training does to its parameters."""
    parameter = torch.nn.Parameter(torch.empty(4 << 20, device="cuda"))
    view = parameter.detach()[: 1 << 20]
    storage = parameter.untyped_storage()
    size = storage.size()
    for _ in range(3):
        storage.resize_(0)
        torch.empty(10 << 20, dtype=torch.uint8, device="cuda")
        storage.resize_(size)
        view.zero_()
    parameter.data = parameter.data.half()
    del view, storage
    grown = torch.empty(0, device="cuda")
    for count in (1000, 100_000, 10_000_000):
        grown.resize_(count)
    parameter.data = grown


if __name__ == "__main__":
    main()
