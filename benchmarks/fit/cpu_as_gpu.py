"""How far a recording of the CPU is from what the same program holds of a GPU.

    python benchmarks/fit/cpu_as_gpu.py [--keep FOLDER]         # with the CUDA build of torch

Records each model on the CPU and on the simulated GPU (tests/simcuda), and prints the predicted
peak of allocated memory beside the real one. What it finds is CPU_AS_GPU_PERMILLE of
memtrace.fit.error_band.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks" / "fit"), str(ROOT / "tests")]

import numpy as np

import simcuda

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
    environment = simcuda.environment(simcuda.Machine(memory_mb=4096))
    subprocess.run([*argv, *(["--train"] if train else [])], check=True, env=environment)
    return trace


def main() -> None:
    """Prints one row per model, and the quantiles."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--keep", help="a folder for the traces")
    options = parser.parse_args()
    folder = Path(options.keep or tempfile.mkdtemp(prefix="cpu-as-gpu-"))
    folder.mkdir(exist_ok=True)
    errors = []
    for name, model in MODELS.items():
        for train in (False, True):
            if not model.on_cuda:
                continue
            cpu, gpu = (
                memtrace.open(record(folder, name, device, train)) for device in ("cpu", "cuda")
            )
            pair = verify(cpu, gpu).totals[0]
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
