"""Quantisation schemes: what a weight takes, and what its kernel holds while it runs.

Of a linear layer of N outputs and K inputs, called with M rows, a scheme keeps N * K packed weights
and their scales, and replaces the layer's one allocation, its result, by the steps of a kernel. A
kernel is a table: what it allocates, and from which step to which; the result is there from RESULT
on. The tables were read off recordings of the libraries, but for those said to be not verified.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

#: weight: N * K; packed: its bytes as packed; input: M * K; output: M * N; row: M.
Elements = Literal["weight", "packed", "input", "output", "row"]

#: In place of the bytes of an element: as many as an activation's has.
ACTIVATION = 0
RESULT = 30
#: _int_mm of CUDA takes more rows than these; torchao then multiplies in float32.
FEW_ROWS = 16
#: Steps that come after the result: all of them lie before the next event.
LAST = 39


@dataclass(frozen=True)
class Temporary:
    """Attributes:
    born, dies: steps.
    bias: only of layers with one (True), or without (False); None: of both.
    first_call: only of a layer's first call.
    few_rows: only where M is at most FEW_ROWS.
    """

    elements: Elements
    element_bytes: int
    born: int
    dies: int
    bias: bool | None = None
    first_call: bool = False
    few_rows: bool = False


@dataclass(frozen=True)
class Kernel:
    """Attributes:
    scale_bytes: of one scale, with its zero point; besides `activation_scales`, each as large as
        an activation's element.
    verified: held against runs on this kind of device.
    adds_bias: in the product, as nn.Linear does; else after it, and cuBLAS then needs no workspace
        for that.
    """

    scale_bytes: float
    temporaries: tuple[Temporary, ...] = ()
    activation_scales: int = 0
    verified: bool = False
    adds_bias: bool = False


@dataclass(frozen=True)
class Scheme:
    """Attributes:
    weight_bits: of a packed weight.
    group: weights in a row that share a scale; 0: all of a row.
    kernels: by kind of device.
    note: what is taken for granted.
    """

    library: str
    weight_bits: int
    group: int
    kernels: Mapping[str, Kernel]
    note: str = ""

    def packed_bytes(self, outputs: int, inputs: int) -> int:
        """Of all weights, without their scales."""
        return -(-outputs * inputs * self.weight_bits // 8)

    def scales_bytes(self, kernel: Kernel, shape: tuple[int, int], activation_bytes: int) -> int:
        """Of scales and zero points; `shape`: outputs, inputs."""
        outputs, inputs = shape
        scales = outputs * (-(-inputs // self.group) if self.group else 1)
        each = kernel.scale_bytes + kernel.activation_scales * activation_bytes
        return round(scales * each)


_INT8_WEIGHT_ONLY = (
    Temporary("weight", ACTIVATION, 1, 3),  # the weights as activations' dtype
    Temporary("output", ACTIVATION, 2, RESULT + 1),  # the product before it is scaled
)
_QUANTIZE_INPUT = (
    Temporary("row", ACTIVATION, 1, RESULT + 2), Temporary("row", 1, 1, RESULT + 2),
    Temporary("input", ACTIVATION, 1, 3), Temporary("input", ACTIVATION, 2, 5),
    Temporary("input", ACTIVATION, 4, 7), Temporary("input", ACTIVATION, 6, 9),
    Temporary("input", 1, 8, RESULT + 3),
)  # fmt: skip
_INT8_DYNAMIC_CPU = (
    *_QUANTIZE_INPUT,
    # _int_mm of the CPU takes uint8: int8 + 128, whose share of the sums is then taken off.
    Temporary("input", 4, 10, 12), Temporary("input", 4, 11, 14), Temporary("input", 1, 13, 23),
    Temporary("output", 4, 15, 24), Temporary("weight", 4, 16, 17),
    Temporary("output", ACTIVATION, 20, 22), Temporary("output", ACTIVATION, 21, RESULT + 4),
)  # fmt: skip
_INT8_DYNAMIC_CUDA = (
    *_QUANTIZE_INPUT,
    Temporary("weight", 1, 14, 17),  # _int_mm of CUDA takes them by columns
    Temporary("weight", 4, 15, 16, few_rows=True),
    Temporary("output", 4, 15, 24),
    Temporary("output", ACTIVATION, 21, RESULT + 4),
)
_FP8_WEIGHT_ONLY = (
    Temporary("weight", ACTIVATION, 1, 3),
    Temporary("weight", ACTIVATION, 2, RESULT + 1, bias=False),
    Temporary("weight", ACTIVATION, 2, 5, bias=True),
    Temporary("output", ACTIVATION, 4, RESULT + 1, bias=True),
)
_NF4_CPU = (
    Temporary("weight", 4, 1, 5, first_call=True), Temporary("weight", 1, 2, 6, first_call=True),
    Temporary("weight", 1, 3, 7, first_call=True), Temporary("packed", 1, 4, 6, first_call=True),
    Temporary("packed", 1, 5, 8, first_call=True),
    Temporary("input", 2, 10, RESULT + 2), Temporary("output", 2, 11, RESULT + 1),
)  # fmt: skip

SCHEMES: dict[str, Scheme] = {
    "int8-weight-only": Scheme(
        "torchao", 8, 0,
        {
            "cpu": Kernel(1, _INT8_WEIGHT_ONLY, activation_scales=1, verified=True),
            "cuda": Kernel(1, _INT8_WEIGHT_ONLY, activation_scales=1, verified=True),
        },
    ),
    "int8-dynamic": Scheme(
        "torchao", 8, 0,
        {
            "cpu": Kernel(1, _INT8_DYNAMIC_CPU, activation_scales=1, verified=True),
            "cuda": Kernel(1, _INT8_DYNAMIC_CUDA, activation_scales=1, verified=True),
        },
    ),
    "int4": Scheme(
        "torchao", 4, 128, {"cpu": Kernel(4), "cuda": Kernel(4)},
        note="a scale and a zero point of 2 B each for a group of weights; the kernel unpacks in"
        " registers",
    ),
    "nf4": Scheme(
        "bitsandbytes", 4, 64,
        {
            "cpu": Kernel(2, _NF4_CPU, verified=True),
            "cuda": Kernel(
                1 + 4 / 256, (Temporary("weight", ACTIVATION, 1, RESULT + 1),), adds_bias=True
            ),
        },
        note="on a CPU the kernel of bfloat16, to which the weights are packed in the first call;"
        " on CUDA scales that are quantised in turn",
    ),
    "fp8-weight-only": Scheme(
        "torchao", 8, 0,
        {
            "cpu": Kernel(4, _FP8_WEIGHT_ONLY, verified=True),
            "cuda": Kernel(4, _FP8_WEIGHT_ONLY, verified=True),
        },
    ),
}  # fmt: skip
