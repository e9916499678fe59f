"""The pinned models that costs are measured on.

tiny = GPT-2, 4 layers, 64 wide, vocabulary 512, decoding: operators of a few microseconds, the
worst case for a tracer. realistic = 6 layers, 512 wide, batch 2 x 128: operators that compute
something.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import GPT2Config, GPT2LMHeadModel

# Called before each call of the model: MemTracker cannot follow a second one otherwise.
BEFORE_FORWARD: list[Callable[[], None]] = []

TINY = {"n_layer": 4, "n_head": 4, "n_embd": 64, "vocab_size": 512, "n_positions": 128}
REALISTIC = {"n_layer": 6, "n_head": 8, "n_embd": 512, "vocab_size": 8192, "n_positions": 512}


def decode(config: dict[str, int], *, batch: int, prompt: int, steps: int, device: str) -> Callable:
    """Returns one iteration: a prompt and `steps` tokens with a KV cache."""
    torch.manual_seed(0)
    model = (
        GPT2LMHeadModel(GPT2Config(**config, bos_token_id=None, eos_token_id=None))
        .eval()
        .to(device)
    )
    prompt_ids = torch.randint(0, config["vocab_size"], (batch, prompt)).to(device)

    def iteration() -> None:
        with torch.no_grad():
            cache, ids = None, prompt_ids
            for _ in range(steps):
                for prepare in BEFORE_FORWARD:
                    prepare()
                output = model(ids, cache, use_cache=True)
                cache = output[1]  # "cache", in older versions "past_key_values"
                ids = output.logits[:, -1:].argmax(-1)

    return iteration


def train(config: dict[str, int], *, batch: int, length: int, device: str) -> Callable:
    """Returns one iteration: forward, backward and an AdamW step."""
    torch.manual_seed(0)
    model = (
        GPT2LMHeadModel(GPT2Config(**config, bos_token_id=None, eos_token_id=None))
        .train()
        .to(device)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    ids = torch.randint(0, config["vocab_size"], (batch, length)).to(device)

    def iteration() -> None:
        for prepare in BEFORE_FORWARD:
            prepare()
        optimizer.zero_grad(set_to_none=True)
        model(ids, labels=ids).loss.backward()
        optimizer.step()

    return iteration


def tiny(device: str = "cpu") -> Callable:
    """tiny: decode of 12 tokens."""
    return decode(TINY, batch=1, prompt=8, steps=12, device=device)


def realistic(device: str = "cpu") -> Callable:
    """realistic: a prompt of 2 x 128 and 3 tokens."""
    return decode(REALISTIC, batch=2, prompt=128, steps=4, device=device)


def training(device: str = "cpu") -> Callable:
    """training: one step of the tiny model."""
    return train(TINY, batch=2, length=32, device=device)


WORKLOADS = {"tiny": tiny, "realistic": realistic, "training": training}
