"""What a number of parameters takes by itself, as sums: bytes of weights, and of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memtrace.errors import MemtraceError
from memtrace.fit.catalogue import Gpu
from memtrace.fit.context import ASSUMED, Context
from memtrace.fit.judge import NO, UNCERTAIN, YES

INFERENCE, TRAINING = "inference", "training"
_BITS = {"fp32": 32, "fp16": 16, "bf16": 16, "fp8": 8, "int8": 8, "int4": 4}
_OTHER_WORDS = {
    "float32": "fp32", "float": "fp32", "float16": "fp16", "half": "fp16", "bfloat16": "bf16",
}  # fmt: skip
_SHOWN = ("fp32", "fp16", "int8", "int4")
_TRAINED = ("fp32", "fp16", "bf16")


@dataclass(frozen=True)
class Sum:
    """What is held of every parameter.

    Attributes:
        what: "inference" or "training".
        parts: bytes of each part per parameter: {"weights": 4.0, "gradients": 4.0, ...}.
    """

    what: str
    dtype: str
    parameters: int
    parts: dict[str, float]

    @property
    def bytes_each(self) -> float:
        return sum(self.parts.values())

    @property
    def total_bytes(self) -> int:
        return round(self.parameters * self.bytes_each)


@dataclass(frozen=True)
class Arithmetic:
    """The sums, and by GPU whether each fits: `fits` has an answer for each of `sums`."""

    parameters: int
    sums: tuple[Sum, ...]
    context: Context
    gpus: tuple[Gpu, ...]
    fits: dict[str, tuple[str, ...]]


def add_up(parameters: int, gpus: Sequence[Gpu], *, dtypes: Sequence[str] = ()) -> Arithmetic:
    """The sums of some dtypes; of the usual ones when left out.

    Raises:
        MemtraceError: a dtype is not known.
    """
    names = [_dtype(text) for text in dtypes] or list(_SHOWN)
    sums = [Sum(INFERENCE, name, parameters, {"weights": _BITS[name] / 8}) for name in names]
    # What torch's own Adam holds: gradients and two states in the dtype of the weights. With
    # weights of 16 bits, beside them a copy in fp32 that the optimizer works on.
    for name in names:
        if name not in _TRAINED:
            continue
        width = _BITS[name] / 8
        parts = {"weights": width, "gradients": width}
        parts |= {"fp32 weights": 4.0} if name != "fp32" else {}
        sums.append(Sum(TRAINING, name, parameters, parts | {"Adam": 8.0}))
    return Arithmetic(
        parameters=parameters,
        sums=tuple(sums),
        context=ASSUMED,
        gpus=tuple(gpus),
        fits={gpu.name: tuple(_fits(each, gpu) for each in sums) for gpu in gpus},
    )


def _fits(each: Sum, gpu: Gpu) -> str:
    if each.total_bytes <= gpu.cuda_bytes - ASSUMED.high_bytes:
        return YES
    return NO if each.total_bytes > gpu.cuda_bytes - ASSUMED.low_bytes else UNCERTAIN


def _dtype(text: str) -> str:
    name = text.strip().lower()
    name = _OTHER_WORDS.get(name, name)
    if name not in _BITS:
        raise MemtraceError(f"no dtype {text!r}; there are {', '.join(_BITS)}")
    return name
