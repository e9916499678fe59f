"""How far predictions have been off from real runs: what a verdict's band is made of."""

from __future__ import annotations

from collections.abc import Iterable

#: By what-if: the 95th percentile of the relative error of the predicted peak over its held cases,
#: in permille, of allocated and reserved bytes, the CPU or CUDA, whichever was worse, and at least
#: 1 % (BENCHMARKS.md, "Predicted against real"). The same requests replayed are exact.
WHAT_IF_PERMILLE = {
    "dtype": 21,
    "quantize": 10,
    "batch": 20,
    "sequence": 20,
    "drop-module": 12,
    "checkpoint-module": 10,
    "optimizer": 10,
    "pruned": 0,
}
#: Of a what-if that has not been held against real runs.
UNKNOWN_PERMILLE = 100
#: Of tensors of the CPU served as a GPU would, by gpu_kernels.kind_of_work (BENCHMARKS.md, "A GPU
#: from the CPU"; cuDNN was not measured).
CPU_AS_GPU_PERMILLE = {"inference": 10, "training": 80, "cudnn": 200}


def band_permille(what_ifs: Iterable[str], *, cpu_as_gpu: str | None = None) -> int:
    """The error of a prediction, in permille of the peak: what each step of it adds at worst.

    Args:
        what_ifs: their names.
        cpu_as_gpu: the kind of work, where a GPU is judged from the CPU.
    """
    found = sum(WHAT_IF_PERMILLE.get(name, UNKNOWN_PERMILLE) for name in what_ifs)
    return found + (CPU_AS_GPU_PERMILLE[cpu_as_gpu] if cpu_as_gpu else 0)
