"""What torch's kernels on the CPU go by: how many threads there are, and what the CPU can do."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType


def describe_cpu_kernels(torch: ModuleType) -> dict[str, object]:
    """Threads, capability ("AVX512"), whether oneDNN computes in bfloat16 and float16, AMX.

    What this torch can't tell is left out.
    """
    asked: dict[str, Callable[[], object]] = {
        "threads": lambda: torch.get_num_threads(),
        "capability": lambda: torch.backends.cpu.get_cpu_capability(),
        "bfloat16": lambda: torch.ops.mkldnn._is_mkldnn_bf16_supported(),
        "float16": lambda: torch.ops.mkldnn._is_mkldnn_fp16_supported(),
        "amx": lambda: torch.cpu._is_amx_tile_supported(),
    }
    told = {}
    for name, ask in asked.items():
        try:
            told[name] = ask()
        except (AttributeError, RuntimeError):
            continue
    return told
