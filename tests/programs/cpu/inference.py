"""GPT-2 of transformers, decoding with its KV cache, and a beam of copies of that cache."""

from __future__ import annotations

import copy
import sys

import held_storages
import torch
from transformers import GPT2Config, GPT2LMHeadModel


@torch.inference_mode()
def main() -> None:
    config = GPT2Config(n_layer=2, n_head=2, n_embd=48, vocab_size=97, n_positions=64)
    model = GPT2LMHeadModel(config).eval()
    held_storages.mark("load")
    ids = torch.arange(14).reshape(2, 7) % 97
    cache = None
    for step in range(5):
        output = model(ids, cache, use_cache=True)
        cache = output[1]
        held_storages.mark(f"decode {step}")
        ids = output.logits[:, -1:].argmax(-1)
    copied = copy.deepcopy(cache)
    held_storages.mark("copied")
    del output, cache
    held_storages.mark("dropped")
    model.half()
    held_storages.mark("half")
    assert copied is not None
    held_storages.write(sys.argv[1])


main()
