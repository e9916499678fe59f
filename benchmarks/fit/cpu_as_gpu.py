"""How far a recording of the CPU is from what the same program holds of a GPU.

    python benchmarks/fit/cpu_as_gpu.py [--keep FOLDER] [--jobs N]    # the CUDA build of torch

Records each model on the CPU and on the GPU, a simulated one (tests/simcuda) where there is none,
and prints the predicted peak of allocated memory beside the real one. What it finds on the
simulated one is CPU_AS_GPU_PERMILLE of memtrace.fit.error_band.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks" / "fit"), str(ROOT / "tests")]

import numpy as np

import simcuda

if not simcuda.real_gpu():
    simcuda.load()  # before torch, which the models import

from models import MODELS

import memtrace
from memtrace.fit.verify import verify

PROGRAM = ROOT / "benchmarks" / "fit" / "program.py"


def record(folder: Path, name: str, device: str, train: bool) -> Path:
    """One trace; one that is there is kept."""
    trace = folder / f"{name}-{'train' if train else 'infer'}-{device}.memtrace"
    if trace.exists():
        return trace
    argv = [sys.executable, "-m", "memtrace", "run", "--quiet", "-o", str(trace), str(PROGRAM)]
    argv += ["--model", name, "--device", device, "--batch", "2,4", "--sequence", "64"]
    simulated = simcuda.Machine(memory_mb=4096)
    environment = None if simcuda.real_gpu() else simcuda.environment(simulated)
    subprocess.run([*argv, *(["--train"] if train else [])], check=True, env=environment)
    return trace


def main() -> None:
    """Prints one row per model, and the quantiles."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--keep", help="a folder for the traces")
    parser.add_argument("--jobs", type=int, default=1, help="recordings at a time")
    options = parser.parse_args()
    folder = Path(options.keep or tempfile.mkdtemp(prefix="cpu-as-gpu-"))
    folder.mkdir(exist_ok=True)
    cases = [
        (name, train)
        for name, model in MODELS.items()
        if model.on_cuda or simcuda.real_gpu()
        for train in (False, True)
    ]
    runs = [(folder, name, device, train) for name, train in cases for device in ("cpu", "cuda")]
    errors = []
    with ThreadPoolExecutor(options.jobs) as pool:
        traces = pool.map(lambda run: record(*run), runs)
        for name, train in cases:
            pair = verify(memtrace.open(next(traces)), memtrace.open(next(traces))).totals[0]
            errors.append(pair.error_permille / 10)
            what = "training" if train else "inference"
            print(
                f"| {name}, {what} | {pair.predicted_bytes / 2**20:.2f} MiB "
                f"| {pair.real_bytes / 2**20:.2f} MiB | {errors[-1]:+.1f} % |",
                flush=True,
            )
    sizes = np.abs(errors)
    median, high, most = np.percentile(sizes, [50, 95, 100])
    print(f"{len(sizes)} pairs: median {median:.1f} %, 95th percentile {high:.1f} %, {most:.1f} %")


if __name__ == "__main__":
    main()
