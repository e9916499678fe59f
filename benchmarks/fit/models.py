"""Models of the sizes at which memory is an issue of kilobytes no more, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Inputs = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Model:
    """How to build a model, and the inputs of one call for a batch and a sequence length."""

    build: Callable[[], nn.Module]
    inputs: Callable[[int, int], Inputs]
    on_cuda: bool = True


def _tokens(batch: int, sequence: int) -> Inputs:
    return {"input_ids": torch.randint(0, 2000, (batch, sequence))}


def _gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_layer": 4, "n_head": 8, "n_embd": 256, "vocab_size": 4000, "n_positions": 512}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))


def _llama(**more: Any) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 512}
    return LlamaForCausalLM(LlamaConfig(vocab_size=4000, **sizes, **heads, **more))


def _bert() -> nn.Module:
    from transformers import BertConfig, BertForMaskedLM

    sizes = {"num_hidden_layers": 4, "num_attention_heads": 8, "hidden_size": 256}
    return BertForMaskedLM(BertConfig(vocab_size=4000, intermediate_size=1024, **sizes))


def _large_llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 1024, "intermediate_size": 2736, "num_hidden_layers": 8}
    return LlamaForCausalLM(LlamaConfig(vocab_size=32000, num_attention_heads=16, **sizes))


def _t5() -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"d_model": 256, "d_kv": 32, "d_ff": 1024, "num_layers": 3, "num_heads": 8}
    return T5ForConditionalGeneration(T5Config(vocab_size=4000, decoder_start_token_id=0, **sizes))


def _t5_inputs(batch: int, sequence: int) -> Inputs:
    return {
        **_tokens(batch, sequence),
        "decoder_input_ids": torch.randint(0, 2000, (batch, max(sequence // 2, 1))),
    }


def _vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8}
    return ViTForImageClassification(
        ViTConfig(intermediate_size=1024, image_size=96, patch_size=8, **sizes)
    )


def _mixtral() -> nn.Module:
    from transformers import MixtralConfig, MixtralForCausalLM

    return MixtralForCausalLM(
        MixtralConfig(
            vocab_size=4000, hidden_size=128, intermediate_size=256, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, num_local_experts=4,
            max_position_embeddings=512,
        )
    )  # fmt: skip


class ConvNet(nn.Module):
    """Residual blocks of convolutions and batch norms, at falling resolution."""

    def __init__(self) -> None:
        super().__init__()
        widths = (32, 64, 128)
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.blocks = nn.ModuleList(self._block(width) for width in widths)
        self.downs = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1)
            for a, b in zip(widths, (64, 128, 256), strict=True)
        )
        self.head = nn.Linear(256, 100)

    @staticmethod
    def _block(width: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.stem(images)
        for block, down in zip(self.blocks, self.downs, strict=True):
            x = down((x + block(x)).relu())
        return self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


class Recurrent(nn.Module):
    """An LSTM over embedded tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(2000, 128)
        self.lstm = nn.LSTM(128, 256, num_layers=2, batch_first=True)
        self.head = nn.Linear(256, 2000)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        hidden, _ = self.lstm(self.embed(input_ids))
        return self.head(hidden)


class LoRALinear(nn.Module):
    """A frozen linear layer and its low-rank update."""

    def __init__(self, base: nn.Linear, rank: int = 8) -> None:
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


class Encoder(nn.Module):
    """torch's own transformer layers, with an embedding and a head of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(2000, 256)
        layer = nn.TransformerEncoderLayer(256, 8, 1024, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = nn.Linear(256, 2000)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(self.embed(input_ids)))


class GiantEmbedding(nn.Module):
    """Nearly all bytes are one embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.Embedding(100_000, 64)
        self.score = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 1))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.score(self.items(input_ids).mean(1))


def _mlp() -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(6):
        layers += [nn.Linear(512, 512), nn.GELU()]
    return nn.Sequential(*layers, nn.Linear(512, 64))


MODELS: dict[str, Model] = {
    "gpt2": Model(_gpt2, _tokens),
    "llama": Model(_llama, _tokens),
    "bert": Model(_bert, _tokens),
    "t5": Model(_t5, _t5_inputs),
    "vit": Model(_vit, lambda batch, _: {"pixel_values": torch.randn(batch, 3, 96, 96)}, False),
    "mixtral": Model(_mixtral, _tokens, False),
    "convnet": Model(ConvNet, lambda batch, _: {"images": torch.randn(batch, 3, 64, 64)}, False),
    "lstm": Model(Recurrent, _tokens, False),
    "lora": Model(_lora, _tokens),
    "encoder": Model(Encoder, _tokens),
    "giant_embedding": Model(GiantEmbedding, _tokens),
    "mlp": Model(_mlp, lambda batch, sequence: {"input": torch.randn(batch, sequence, 512)}),
}

#: Too large to be run many times.
LARGE: dict[str, Model] = {
    "llama_166m": Model(_large_llama, _tokens),
}
