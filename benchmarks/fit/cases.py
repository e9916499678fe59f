"""The held cases: a base run, a what-if of its trace, and the run that it is to predict.

A line is one case; `program.py` has the options. On CUDA are run those whose model can be.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from models import MODELS


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


#: At the ends of what is extrapolated, 2 and 8 times the largest recorded, these; 4 times all.
_FAR = ("gpt2", "mlp")
_IMAGES = ("vit", "convnet")


def _scalings() -> Iterator[Case]:
    for model in MODELS:
        for mode in ("", "--train "):
            for batch in (6, 12, 24) if model in _FAR else (12,):
                base, real = "--batch 2,3 --sequence 48", f"--batch {batch} --sequence 48"
                yield Case("batch", model, mode + base, {"batch": (str(batch),)}, mode + real)
            if model in _IMAGES:
                continue
            for length in (96, 192, 384) if model in _FAR else (192,):
                base, real = "--batch 2,2 --sequence 32,48", f"--batch 2 --sequence {length}"
                yield Case(
                    "sequence", model, mode + base, {"sequence": (str(length),)}, mode + real
                )
            if model in _FAR:
                base, real = "--batch 2,3,2 --sequence 32,32,48", "--batch 8 --sequence 192"
                both = {"batch": ("8",), "sequence": ("192",)}
                yield Case("both", model, mode + base, both, mode + real)


#: Model, modules that are left out, and sizes of the run.
_DROPPED = (
    ("gpt2", ("transformer.h.1",), "--batch 4 --sequence 64"),
    ("gpt2", ("transformer.h.1", "transformer.h.2"), "--batch 2 --sequence 128"),
    ("llama", ("model.layers.1",), "--batch 4 --sequence 64"),
    ("llama", ("model.layers.0",), "--batch 2 --sequence 128"),
    ("llama", ("model.layers.3",), "--batch 2 --sequence 128"),
    ("bert", ("bert.encoder.layer.2",), "--batch 4 --sequence 64"),
    ("t5", ("decoder.block.1",), "--batch 4 --sequence 64"),
    ("t5", ("encoder.block.2",), "--batch 4 --sequence 64"),
    ("vit", ("vit.layers.1",), "--batch 4"),
    ("mixtral", ("model.layers.1",), "--batch 4 --sequence 64"),
    ("lora", ("model.layers.2",), "--batch 4 --sequence 64"),
    ("encoder", ("layers.layers.1",), "--batch 4 --sequence 64"),
    ("mlp", ("2",), "--batch 64 --sequence 64"),
    ("mlp", ("3",), "--batch 64 --sequence 64"),
)


def _drops() -> Iterator[Case]:
    for model, paths, sizes in _DROPPED:
        for mode in ("", "--train "):
            # From the last one on: those before it keep their places.
            changed = " ".join(f"--drop {path}" for path in reversed(paths))
            base = mode + sizes
            yield Case("drop", model, base, {"drop-module": paths}, f"{base} {changed}")


#: Model, a pattern of what is checkpointed, the modules that it stands for, and the run. Without a
#: cache of keys and values, which a forward that is done again would fill twice.
_CHECKPOINTED = (
    ("gpt2", "h.1", "transformer.h.{}", (1,), "--no-cache --batch 4 --sequence 64"),
    ("gpt2", "h.*", "transformer.h.{}", range(4), "--no-cache --batch 4 --sequence 128"),
    ("llama", "layers.2", "model.layers.{}", (2,), "--no-cache --batch 4 --sequence 64"),
    ("llama", "layers.*", "model.layers.{}", range(4), "--no-cache --batch 8 --sequence 128"),
    ("lora", "layers.*", "model.layers.{}", range(4), "--no-cache --batch 8 --sequence 128"),
    ("mixtral", "layers.*", "model.layers.{}", range(2), "--no-cache --batch 4 --sequence 64"),
    ("bert", "layer.*", "bert.encoder.layer.{}", range(4), "--batch 8 --sequence 128"),
    ("vit", "layers.*", "vit.layers.{}", range(4), "--batch 8"),
    ("encoder", "layers.layers.*", "layers.layers.{}", range(4), "--batch 8 --sequence 128"),
    ("convnet", "blocks.0", "blocks.{}", (0,), "--batch 8"),
)


def _checkpoints() -> Iterator[Case]:
    for model, pattern, path, numbers, sizes in _CHECKPOINTED:
        base = "--train " + sizes
        changed = " ".join(f"--checkpoint {path.format(number)}" for number in numbers)
        yield Case(
            "checkpoint", model, base, {"checkpoint-module": (pattern,)}, f"{base} {changed}"
        )


#: Model, its optimizer, the one that is asked for, and the run.
_OPTIMIZERS = (
    ("gpt2", "adamw", "sgd", "--batch 2 --sequence 64"),
    ("gpt2", "adamw", "momentum", "--batch 2 --sequence 64"),
    ("gpt2", "sgd", "adamw", "--batch 2 --sequence 64"),
    ("llama", "momentum", "adamw", "--batch 2 --sequence 64"),
    ("llama", "adamw", "sgd", "--batch 4 --sequence 64"),
    ("bert", "sgd", "momentum", "--batch 2 --sequence 64"),
    ("bert", "sgd", "adamw", "--batch 2 --sequence 64"),
    ("t5", "momentum", "sgd", "--batch 2 --sequence 64"),
    ("lora", "sgd", "adamw", "--batch 2 --sequence 64"),
    ("vit", "momentum", "adamw", "--batch 2"),
    ("giant_embedding", "adamw", "momentum", "--batch 8 --sequence 64"),
    ("mlp", "sgd", "adamw", "--batch 4 --sequence 64"),
)


def _optimizers() -> Iterator[Case]:
    for model, recorded, asked, sizes in _OPTIMIZERS:
        run = f"--train {sizes} --optimizer"
        yield Case(
            "optimizer", model, f"{run} {recorded}", {"optimizer": (asked,)}, f"{run} {asked}"
        )


#: Model, ranks, and the run.
_SHARDED = (
    ("gpt2", 2, "--batch 2 --sequence 64"),
    ("gpt2", 8, "--batch 4 --sequence 128"),
    ("llama", 4, "--batch 2 --sequence 64"),
    ("bert", 8, "--batch 2 --sequence 64"),
    ("encoder", 4, "--batch 4 --sequence 64"),
)


def _sharded() -> Iterator[Case]:
    for model, ranks, sizes in _SHARDED:
        base = f"--train {sizes}"
        yield Case(
            "zero", model, base, {"optimizer": (f"zero3:{ranks}",)}, f"{base} --ranks {ranks}"
        )


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


CASES: tuple[Case, ...] = (
    *_dtypes(), *_quantized(), *_scalings(), *_drops(), *_checkpoints(), *_optimizers(),
    *_sharded(),
)  # fmt: skip
