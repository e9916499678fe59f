"""Models quantised by the libraries that people use, in place: what --quantize is held against.

Needs torchao 0.18.0, and bitsandbytes 0.50.2 for nf4: beside the torch that is there (--no-deps).
"""

from __future__ import annotations

from torch import nn


def quantise(model: nn.Module, scheme: str) -> None:
    """Every nn.Linear, as torchao and bitsandbytes do by default; `scheme`: of --quantize."""
    if scheme == "nf4":
        _to_nf4(model)
        return
    from torchao.quantization import (
        Float8WeightOnlyConfig,
        Int4WeightOnlyConfig,
        Int8DynamicActivationInt8WeightConfig,
        Int8WeightOnlyConfig,
        quantize_,
    )

    configs = {
        "int8-weight-only": Int8WeightOnlyConfig,
        "int8-dynamic": Int8DynamicActivationInt8WeightConfig,
        "int4": Int4WeightOnlyConfig,
        "fp8-weight-only": Float8WeightOnlyConfig,
    }
    quantize_(model, configs[scheme]())


def _to_nf4(model: nn.Module) -> None:
    import bitsandbytes

    for name, module in list(model.named_modules()):
        if not isinstance(module, nn.Linear):
            continue
        packed = bitsandbytes.nn.Linear4bit(
            module.in_features, module.out_features, module.bias is not None,
            compute_dtype=module.weight.dtype, quant_type="nf4",
        )  # fmt: skip
        packed.weight = bitsandbytes.nn.Params4bit(
            module.weight.data, requires_grad=False, quant_type="nf4"
        )
        packed.bias = module.bias
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, packed.to(module.weight.device))
