"""The held cases: a base run, a what-if of its trace, and the run that it is to predict.

A line is one case; `program.py` has the options. On CUDA are run those whose model can be.
"""

from __future__ import annotations

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
        return f"{self.model} {mode}: {asked}"


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


CASES: tuple[Case, ...] = (*_dtypes(), *_scalings())
