"""A Llama-like decoder of 1.24 billion parameters in bf16, made on the GPU, with random weights."""

from __future__ import annotations

import inspect

import torch
from transformers import LlamaConfig, LlamaForCausalLM

#: The shape of Llama 3.2 1B.
SHAPE = {
    "vocab_size": 128_256, "hidden_size": 2048, "intermediate_size": 8192,
    "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
    "max_position_embeddings": 8192, "tie_word_embeddings": True,
}  # fmt: skip
#: The argument, and the field of the result, that is the KV cache.
CACHE = (
    "cache"
    if "cache" in inspect.signature(LlamaForCausalLM.forward).parameters
    else "past_key_values"
)


def decoder() -> LlamaForCausalLM:
    """The model, on the current CUDA device; a run's weights are the next run's."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            return LlamaForCausalLM(LlamaConfig(**SHAPE, bos_token_id=None, eos_token_id=None))
    finally:
        torch.set_default_dtype(torch.float32)


def prompts(batch: int, length: int) -> torch.Tensor:
    """Token ids, int64 [batch, length], on the GPU."""
    return torch.randint(0, SHAPE["vocab_size"], (batch, length)).cuda()


@torch.no_grad()
def serve(model: LlamaForCausalLM, ids: torch.Tensor, tokens: int) -> torch.Tensor:
    """Prompts, then `tokens` tokens with a KV cache; returns the last ones, int64 [batch, 1]."""
    cache = None
    for _ in range(tokens):
        output = model(ids, **{CACHE: cache}, use_cache=True, logits_to_keep=1)
        cache = output[CACHE]
        ids = output.logits[:, -1:].argmax(-1)
    return ids


def train_step(
    model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, ids: torch.Tensor
) -> torch.Tensor:
    """Forward, backward and a step of the optimizer; returns the loss."""
    optimizer.zero_grad(set_to_none=True)
    loss = model(ids, labels=ids, use_cache=False).loss
    loss.backward()
    optimizer.step()
    return loss.detach()
