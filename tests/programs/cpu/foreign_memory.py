"""Weights that torch's allocator never gave out: mapped files, numpy's memory, shared memory."""

from __future__ import annotations

import json
import os
import sys

import numpy as np
import safetensors.torch
import torch
from torch import nn

import memtrace

ROWS = 600  # 600 x 256 floats: 614,400 bytes


class Weights(nn.Module):
    """One weight of each origin; the forward reads them all."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        values = torch.arange(ROWS * 256, dtype=torch.float32).reshape(ROWS, 256)
        torch.save({"loaded": values, "untouched": values + 1}, f"{folder}/w.pt")
        mapped = torch.load(f"{folder}/w.pt", mmap=True)
        self.loaded = nn.Parameter(mapped["loaded"])
        safetensors.torch.save_file({"safe": values}, f"{folder}/w.safetensors")
        with safetensors.safe_open(f"{folder}/w.safetensors", "pt") as file:
            self.safe = nn.Parameter(file.get_tensor("safe"))
        file_name = f"{folder}/raw.bin"
        values.numpy().tofile(file_name)
        raw = torch.from_file(file_name, shared=False, size=ROWS * 256)
        self.register_buffer("raw", raw.view(ROWS, 256))
        self.array = np.full((ROWS, 256), 2.0, dtype=np.float32)
        self.numpy = nn.Parameter(torch.from_numpy(self.array))
        self.shared = nn.Parameter(values.clone().share_memory_())
        self.own = nn.Parameter(values.clone())
        # numpy's view of torch's own memory, given back to torch: not foreign.
        self.round_trip = nn.Parameter(torch.from_numpy((values * 3).numpy()))

    def forward(self) -> torch.Tensor:
        total = torch.zeros(())
        for name, weight in self.state_dict(keep_vars=True).items():
            total = total + (weight[:10] if name == "raw" else weight).sum()
        return total


def main() -> nn.Module:
    model = Weights(os.path.dirname(sys.argv[1]))
    model()
    with memtrace.stage("after the forward"):
        storages = {
            name: (tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes())
            for name, tensor in model.state_dict().items()
        }
    with open(sys.argv[1], "w") as file:
        json.dump(storages, file)
    return model


kept = main()
