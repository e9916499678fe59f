"""A DataLoader with worker and pinning thread; pinned host memory and asynchronous copies."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

SINGLE_THREADED = True


def main() -> None:
    """Trains from pinned batches, and frees a pinned tensor while its copy may be under way."""
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(256, 512), torch.zeros(256, dtype=torch.long))
    model = nn.Linear(512, 10).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for inputs, labels in DataLoader(data, batch_size=64, pin_memory=True, num_workers=1):
        logits = model(inputs.cuda(non_blocking=True))
        loss = nn.functional.cross_entropy(logits, labels.cuda(non_blocking=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pinned = torch.empty(8 << 20, dtype=torch.uint8, pin_memory=True)
    on_device = pinned.to("cuda", non_blocking=True)
    del pinned
    on_device.cpu()


if __name__ == "__main__":
    main()
