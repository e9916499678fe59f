"""Which kernels the CPU of a recording has in half precision, as far as the trace tells."""

from __future__ import annotations

from dataclasses import dataclass

from memtrace.trace import Process
from memtrace.trace_json import parsed_object

_MOST_THREADS = 1 << 20


@dataclass(frozen=True)
class CpuKernels:
    """Attributes:
    threads: that torch computes with; None: not known.
    dtypes: of half precision, in which oneDNN computes here.
    blocks_known: whether it cuts products into blocks as onednn_products.py does.
    """

    threads: int | None
    dtypes: frozenset[str]
    blocks_known: bool


def cpu_kernels(process: Process) -> CpuKernels:
    """By the column `cpu_kernels`; of an older trace as if the CPU had bfloat16 alone."""
    told = parsed_object(process.row.get("cpu_kernels"))
    threads = told.get("threads")
    has = {"bfloat16": told.get("bfloat16", True), "float16": told.get("float16", False)}
    return CpuKernels(
        threads=threads if type(threads) is int and 0 < threads <= _MOST_THREADS else None,
        dtypes=frozenset(name for name, there in has.items() if there),
        blocks_known=told.get("capability") == "AVX512" and told.get("amx") is False,
    )
