"""A Llama-like decoder of 1.24 billion parameters on a real GPU: what recording costs, and says.

    python benchmarks/gpu/llama.py [--rounds 10] [--part cost|sums]

cost: serving (prompts of 8 x 512 and 32 tokens with a KV cache, bf16) and a training step (4 x 512,
AdamW), wall time with the GPU's work waited for, and CPU time of the process; each variant beside
the same work without it in the same round.

sums: the programs of tests/programs/gpu under `memtrace run`, each held against torch's counters,
against cudaMemGetInfo and against NVML.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PROGRAMS = ROOT / "tests" / "programs" / "gpu"
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks"), str(PROGRAMS)]

import torch
from llama import decoder, prompts, serve, train_step
from record.recording import HooksOn
from record.torch_history import TorchHistory


def profiler() -> torch.profiler.profile:
    """torch.profiler with what is needed for its memory timeline."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    return torch.profiler.profile(
        activities=activities, profile_memory=True, record_shapes=True, with_stack=True
    )


PROFILER = "torch.profiler (memory, shapes, stack)"
PROFILER_ROUNDS = 3  # it takes many times the iteration's time to stop
VARIANTS: dict[str, Callable] = {
    "nothing (the noise)": nullcontext,
    "memtrace, everything on": lambda: HooksOn(cuda=True),
    "memtrace --no-operators": lambda: HooksOn(operators=False, cuda=True),
    "torch history (all, python)": TorchHistory,
    PROFILER: profiler,
}
WARM_UP = 2  # iterations: what is seen for the first time is not counted, of neither side


def measure(work: Callable[[], object], times: int) -> tuple[float, float]:
    """(wall, CPU) ns of one iteration, the GPU's work included in the wall."""
    torch.cuda.synchronize()
    wall, cpu = time.perf_counter_ns(), time.process_time_ns()
    for _ in range(times):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter_ns() - wall) / times, (time.process_time_ns() - cpu) / times


def events(work: Callable[[], object]) -> int:
    """Allocator events of one iteration: alloc, free_requested, free_completed."""
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    work()
    return 3 * (torch.cuda.memory_stats()["allocation.all.allocated"] - before)


def costs(name: str, work: Callable[[], object], times: int, rounds: int) -> None:
    """Prints the table of one workload: median and quartiles of ratios, each of its own round."""
    for _ in range(3):
        work()
    gc.collect()
    gc.freeze()
    found: dict[str, list[tuple[float, float]]] = {variant: [] for variant in VARIANTS}
    walls = []
    for number in range(rounds):
        for variant, entered in VARIANTS.items():
            if variant == PROFILER and number >= PROFILER_ROUNDS:
                continue
            before = measure(work, times)
            with entered():
                measure(work, WARM_UP)
                during = measure(work, times)
            after = measure(work, times)
            base = [(one + other) / 2 for one, other in zip(before, after, strict=True)]
            walls.append(base[0])
            found[variant].append((during[0] / base[0], during[1] / base[1]))
    wall_ms = statistics.median(walls) / 1e6
    print(f"\n{name}: {wall_ms:.1f} ms, {events(work):,} allocator events; times as long")
    for variant, ratios in found.items():
        cells = []
        for values in zip(*ratios, strict=True):
            low, median, high = statistics.quantiles(values, n=4)
            cells.append(f"{median:7.3f} [{low:.3f} {high:.3f}]")
        print(f"  {variant:40s} wall {cells[0]}   CPU {cells[1]}", flush=True)


def cost(rounds: int) -> None:
    model = decoder()
    ids, tokens = prompts(8, 512), 32
    model.eval()
    costs(f"serving 8 x 512, {tokens} tokens", lambda: serve(model, ids, tokens), 1, rounds)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    ids = prompts(4, 512)
    costs("training step 4 x 512", lambda: train_step(model, optimizer, ids), 2, rounds)


def sums(program: str, folder: Path) -> None:
    """Records one program and prints what the trace says beside what torch, CUDA and NVML say."""
    folder.mkdir(parents=True, exist_ok=True)
    trace, told = folder / f"{program}.memtrace", folder / f"{program}.json"
    argv = [sys.executable, "-m", "memtrace", "run", "-o", str(trace), str(HERE / "account.py")]
    subprocess.run([*argv, str(PROGRAMS / f"{program}.py"), str(told)], check=True)
    print(f"\n{program}: what was said at its end")
    for name, value in json.loads(told.read_text()).items():
        print(f"  {name:26s} {'not told' if value is None else f'{value:>18,} bytes'}")
    sys.stdout.flush()
    for command in ("summary", "peak", "stages"):
        subprocess.run([sys.executable, "-m", "memtrace", command, str(trace)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--part", choices=("cost", "sums"), action="append")
    parser.add_argument("--keep", type=Path, help="a folder for the traces")
    options = parser.parse_args()
    parts = options.part or ["cost", "sums"]
    torch.cuda.init()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}", flush=True)
    if "cost" in parts:
        cost(options.rounds)
    if "sums" in parts:
        with tempfile.TemporaryDirectory(prefix="memtrace-gpu-") as temporary:
            for program in ("llama_serve", "llama_train"):
                sums(program, options.keep or Path(temporary))


if __name__ == "__main__":
    main()
