"""The held cases: a base run, a what-if of its trace, and the run that it is to predict.

A line is one case; `program.py` has the options. On CUDA are run those whose model can be.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """Attributes:
    kind: under which its error is counted.
    model: a key of MODELS.
    base: options of the recorded run, without the model.
    what_if: name -> what the option is given, as `memtrace fit` takes it.
    real: options of the run that is predicted.
    """

    kind: str
    model: str
    base: str
    what_if: dict[str, tuple[str, ...]]
    real: str

    @property
    def name(self) -> str:
        """The model, whether it is trained, and what is asked."""
        mode = "train" if "--train" in self.base else "infer"
        asked = " ".join(f"{name} {text}" for name, texts in self.what_if.items() for text in texts)
        sizes = "x".join(re.findall(r"--(?:batch|sequence) (\S+)", self.base))
        return f"{self.model} {mode} {sizes}: {asked}"


#: Model -> batch and sequence length at which it is run in another dtype.
_DTYPE_SIZES = {
    "gpt2": "--batch 4 --sequence 128", "llama": "--batch 4 --sequence 128",
    "bert": "--batch 4 --sequence 128", "t5": "--batch 4 --sequence 128",
    "vit": "--batch 8", "mixtral": "--batch 4 --sequence 128", "convnet": "--batch 8",
    "lstm": "--batch 8 --sequence 64", "lora": "--batch 4 --sequence 128",
    "encoder": "--batch 4 --sequence 128", "giant_embedding": "--batch 64 --sequence 64",
    "mlp": "--batch 8 --sequence 64",
}  # fmt: skip


def _dtypes() -> Iterator[Case]:
    for model, sizes in _DTYPE_SIZES.items():
        for mode in ("", "--train "):
            for short, dtype in (("bf16", "bfloat16"), ("fp16", "float16")):
                base = mode + sizes
                yield Case("dtype", model, base, {"dtype": (short,)}, f"{base} --dtype {dtype}")


_SCHEMES = ("int8-weight-only", "int8-dynamic", "fp8-weight-only", "nf4")
#: At a small batch weights and what unpacks them are the peak, at a large one activations.
_QUANTIZED = {
    "llama": ("--batch 1 --sequence 64", "--batch 4 --sequence 128"),
    "gpt2": ("--batch 4 --sequence 128",),
    "bert": ("--batch 1 --sequence 64", "--batch 4 --sequence 128"),
    "vit": ("--batch 8",),
    "mlp": ("--batch 1 --sequence 16", "--batch 8 --sequence 64"),
    "t5": ("--batch 4 --sequence 128",),
    "lora": ("--batch 4 --sequence 128",),
}


def _quantized() -> Iterator[Case]:
    for model, all_sizes in _QUANTIZED.items():
        for base in all_sizes:
            for scheme in _SCHEMES:
                yield Case(
                    "quantize", model, base, {"quantize": (scheme,)}, f"{base} --quantize {scheme}"
                )
    half = "--batch 4 --sequence 128 --dtype bfloat16"
    real = f"{half} --quantize int8-weight-only"
    yield Case("quantize", "llama", half, {"quantize": ("int8-weight-only",)}, real)
    both = {"dtype": ("bf16",), "quantize": ("int8-weight-only",)}
    yield Case("quantize", "llama", "--batch 4 --sequence 128", both, real)


CASES: tuple[Case, ...] = (*_dtypes(), *_quantized())
