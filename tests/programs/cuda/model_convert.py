"""A model copied, cast, moved away and back: parameters keep names and change memory."""

from __future__ import annotations

import copy

import torch
from torch import nn

SINGLE_THREADED = True

KEPT: list[object] = []


def main() -> None:
    """Converts a model in every usual way; the last one lives until the exit."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1024, 2048), nn.BatchNorm1d(2048), nn.Linear(2048, 1024)).cuda()
    average = copy.deepcopy(model)
    model.half()
    model(torch.randn(32, 1024, device="cuda", dtype=torch.float16)).sum().backward()
    model.cpu()
    model.float().cuda()
    model.load_state_dict(average.state_dict(), assign=True)
    del average
    KEPT.append(model)


if __name__ == "__main__":
    main()
