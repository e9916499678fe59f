"""GPT-2 fills its KV cache token by token; `generate()` would look at values."""

from __future__ import annotations

import torch
from transformers import GPT2Config, GPT2LMHeadModel

SINGLE_THREADED = True

KEPT: list[object] = []


def main() -> None:
    """Runs a prompt of 64 tokens and 12 tokens after it; the cache lives until the exit."""
    torch.manual_seed(0)
    config = GPT2Config(n_layer=4, n_head=8, n_embd=256, vocab_size=2048, n_positions=256)
    config.bos_token_id = config.eos_token_id = 0
    model = GPT2LMHeadModel(config).cuda().eval()
    ids = torch.zeros(4, 64, dtype=torch.long, device="cuda")
    with torch.no_grad():
        result = model(ids, use_cache=True)
        for _ in range(12):
            last = torch.zeros(4, 1, dtype=torch.long, device="cuda")
            result = model(last, result[1], use_cache=True)
    KEPT.append(result[1])


if __name__ == "__main__":
    main()
