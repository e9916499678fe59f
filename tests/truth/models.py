"""Models of every kind that attribution is held against, small and with random weights.

Nothing is loaded from anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from truth.cases import ON_CPU

Inputs = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Case:
    """A model to build and the inputs of a call."""

    build: Callable[[], nn.Module]
    inputs: Callable[[], Inputs]


def _tokens(*shape: int, vocabulary: int = 512) -> torch.Tensor:
    return torch.randint(0, vocabulary, shape)


def _gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_layer": 3, "n_head": 4, "n_embd": 64, "vocab_size": 512, "n_positions": 64}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))


def _llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=3,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        )
    )  # fmt: skip


def _bert() -> nn.Module:
    from transformers import BertConfig, BertForMaskedLM

    sizes = {"num_hidden_layers": 3, "num_attention_heads": 4, "hidden_size": 64}
    return BertForMaskedLM(BertConfig(vocab_size=512, intermediate_size=128, **sizes))


def _t5() -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
    return T5ForConditionalGeneration(T5Config(vocab_size=512, decoder_start_token_id=0, **sizes))


def _mixtral() -> nn.Module:
    from transformers import MixtralConfig, MixtralForCausalLM

    return MixtralForCausalLM(
        MixtralConfig(
            vocab_size=512, hidden_size=64, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, num_local_experts=4,
            max_position_embeddings=64,
        )
    )  # fmt: skip


def _vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return ViTForImageClassification(
        ViTConfig(intermediate_size=128, image_size=32, patch_size=8, **sizes)
    )


def _mamba() -> nn.Module:
    from transformers import MambaConfig, MambaForCausalLM

    return MambaForCausalLM(
        MambaConfig(vocab_size=512, hidden_size=64, state_size=8, num_hidden_layers=2)
    )


class ConvNet(nn.Module):
    """Convolutions, batch norm (buffers that are updated in place), residual additions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.block = nn.Sequential(
            nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(inplace=True)
        )
        self.head = nn.Linear(16, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.stem(images)
        x = x + self.block(x)
        return self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


class Recurrent(nn.Module):
    """An LSTM over embedded tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, 32)
        self.lstm = nn.LSTM(32, 64, num_layers=2, batch_first=True)
        self.head = nn.Linear(64, 256)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden, _ = self.lstm(self.embed(tokens))
        return self.head(hidden)


class LoRALinear(nn.Module):
    """A frozen linear layer and its low-rank update."""

    def __init__(self, base: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_a = nn.Linear(base.in_features, rank, bias=False)
        self.lora_b = nn.Linear(rank, base.out_features, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.lora_b(self.lora_a(x))


def _lora() -> nn.Module:
    model = _llama().requires_grad_(False)
    for layer in model.model.layers:
        layer.self_attn.q_proj = LoRALinear(layer.self_attn.q_proj)
        layer.self_attn.v_proj = LoRALinear(layer.self_attn.v_proj)
    return model


class Tied(nn.Module):
    """Embedding and head share one weight; one layer is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(512, 64)
        self.shared = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, dropout=0.0)
        self.head = nn.Linear(64, 512, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.shared(self.shared(self.embed(tokens))))


class MixedDtypes(nn.Module):
    """bfloat16 in the middle, float32 around it, an integer buffer, a float64 scale."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(32, 64)
        self.middle = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64)).bfloat16()
        self.leave = nn.Linear(64, 32)
        self.scale = nn.Parameter(torch.ones(32, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(1024, dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.enter(x)
        h = self.middle(h.bfloat16()).float()
        self.seen += 1
        return self.leave(h) * self.scale.float()


class GiantEmbedding(nn.Module):
    """Nearly all bytes are one embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.EmbeddingBag(40_000, 32, mode="sum")
        self.score = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        return self.score(self.items(items))


class Mutated(nn.Module):
    """Views, in-place operators, chunks, a mask and an expanded bias: nodes that own no memory."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(32, 96)
        self.bias = nn.Parameter(torch.zeros(1, 1, 32))
        self.register_buffer("mask", torch.ones(1, 16, 1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.project(x).chunk(3, dim=-1)
        scores = (q @ k.transpose(1, 2)).mul_(0.1).softmax(-1)
        out = (scores @ v).view(x.shape[0], -1, 2, 16).permute(0, 2, 1, 3).reshape(x.shape)
        out = out * self.mask[:, : x.shape[1]] + self.bias.expand_as(out)
        return out.clamp_(min=-3).t_().t_() if out.dim() == 2 else out.clamp(min=-3)


CASES: dict[str, Case] = {
    "gpt2": Case(_gpt2, lambda: {"input_ids": _tokens(2, 16)}),
    "llama": Case(_llama, lambda: {"input_ids": _tokens(2, 16)}),
    "bert": Case(_bert, lambda: {"input_ids": _tokens(2, 16)}),
    "t5": Case(_t5, lambda: {"input_ids": _tokens(2, 12), "decoder_input_ids": _tokens(2, 8)}),
    "mixtral": Case(_mixtral, lambda: {"input_ids": _tokens(2, 16)}),
    "vit": Case(_vit, lambda: {"pixel_values": torch.randn(2, 3, 32, 32)}),
    "convnet": Case(ConvNet, lambda: {"images": torch.randn(4, 3, 16, 16)}),
    "lstm": Case(Recurrent, lambda: {"tokens": _tokens(4, 12, vocabulary=256)}),
    "mamba": Case(_mamba, lambda: {"input_ids": _tokens(2, 16)}),
    "lora": Case(_lora, lambda: {"input_ids": _tokens(2, 16)}),
    "tied": Case(Tied, lambda: {"tokens": _tokens(2, 16)}),
    "mixed_dtypes": Case(MixedDtypes, lambda: {"x": torch.randn(8, 32)}),
    "giant_embedding": Case(GiantEmbedding, lambda: {"items": _tokens(16, 8, vocabulary=40_000)}),
    "mutated": Case(Mutated, lambda: {"x": torch.randn(2, 16, 32)}),
}
assert tuple(CASES) == ON_CPU
