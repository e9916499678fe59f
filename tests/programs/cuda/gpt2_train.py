"""GPT-2 of transformers, trained with AdamW: tied weights, large logits."""

from __future__ import annotations

import torch
from transformers import GPT2Config, GPT2LMHeadModel

SINGLE_THREADED = True


def main() -> None:
    """Trains for three steps."""
    torch.manual_seed(0)
    config = GPT2Config(n_layer=3, n_head=8, n_embd=256, vocab_size=4096, n_positions=128)
    config.bos_token_id = config.eos_token_id = 0
    config.loss_type = "ForCausalLM"
    model = GPT2LMHeadModel(config).cuda()
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(3):
        ids = torch.zeros(4, 96, dtype=torch.long, device="cuda")
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


if __name__ == "__main__":
    main()
