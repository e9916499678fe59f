"""Programs that call models and tell where their tensors lie; what a trace says of them."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

from program_runs import recorded

Row = dict[str, Any]

PRELUDE = """
import copy, gc, io, json, pickle, sys, threading
import torch, memtrace
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.l = nn.Linear(8, 4)
    def forward(self, x, scale=None):
        y = self.l(x)
        return y if scale is None else y * scale

# Every tensor that is told of stays alive, so that an address means one allocation.
told, alive = [], []
def tell(kind, name, tensor):
    storage = tensor.untyped_storage()
    alive.append(storage)
    told.append([kind, name, storage.data_ptr(), storage.nbytes(), list(tensor.shape),
                 str(tensor.dtype)[6:], tensor.storage_offset() * tensor.element_size()])
def save():
    with open("told.json", "w") as file:
        json.dump(told, file)
net = Net()
"""


def run(tmp_path: Path, text: str, **kwargs: Any) -> dict[str, list[Row]]:
    """Datasets of the trace of PRELUDE and this text."""
    program = tmp_path / "program.py"
    program.write_text(PRELUDE + textwrap.dedent(text))
    trace = tmp_path / "t.memtrace"
    shown = recorded(trace, program, cwd=tmp_path, **kwargs)
    assert shown.status == 0, shown.err.decode()
    return read(trace)


def read(trace: Path) -> dict[str, list[Row]]:
    import pyarrow.parquet as pq

    return {
        name: [
            row
            for part in sorted(trace.glob(f"{name}/*/*.parquet"))
            for row in pq.read_table(part, partitioning=None).to_pylist()
        ]
        for name in ("names", "allocations", "events", "steps", "marks")
    }


def steps(found: dict[str, list[Row]]) -> list[tuple[Any, ...]]:
    """(class, batch, shapes, error) of each step, in their order."""
    rows = sorted(found["steps"], key=lambda row: row["step"])
    return [
        (row["root_module"], row["batch_size"], json.loads(row["input_shapes"]), row["error"])
        for row in rows
    ]


def classes(found: dict[str, list[Row]]) -> list[str]:
    return [row["root_module"] for row in sorted(found["steps"], key=lambda row: row["step"])]


def named(found: dict[str, list[Row]]) -> set[tuple[Any, ...]]:
    """As the program's tell(): what calls named, with the place of its memory."""
    places = {row["allocation_id"]: row for row in found["allocations"]}
    return {
        (
            *(row["kind"], row["name"]),
            *(places[row["allocation_id"]][key] for key in ("address", "size_bytes")),
            *(tuple(row["shape"]), row["dtype"], row["offset_bytes"]),
        )
        for row in found["names"]
        if row["kind"] in ("input", "output", "kv_cache")
    }


def told(tmp_path: Path) -> set[tuple[Any, ...]]:
    rows = json.loads((tmp_path / "told.json").read_text())
    return {(*row[:4], tuple(row[4]), *row[5:]) for row in rows}


MODELS = """
import os
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # it warns of this and that
import transformers
from transformers import (DynamicCache, EncoderDecoderCache, GPT2Config, GPT2LMHeadModel,
                          StaticCache, T5Config, T5ForConditionalGeneration)
config = GPT2Config(n_layer=3, n_embd=16, n_head=2, vocab_size=50, n_positions=32)
gpt2 = GPT2LMHeadModel(config).eval()
torch.set_grad_enabled(False)
def ids(length): return torch.ones(2, length, dtype=torch.long)
def tell_cache(name, cache):
    for i, layer in enumerate(cache.layers):
        tell("kv_cache", f"{name} layer {i} key", layer.keys)
        tell("kv_cache", f"{name} layer {i} value", layer.values)
def cache_of(out): return next(k for k, v in out.items() if isinstance(v, transformers.Cache))
"""
