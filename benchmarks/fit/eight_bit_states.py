"""8-bit AdamW: the predicted states beside bitsandbytes', name by name.

    python benchmarks/fit/eight_bit_states.py [--recordings FOLDER]         # on the CPU

bitsandbytes 0.50.2 (--no-deps) makes the same states on a GPU; what its kernels there need besides
is not known.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from recordings import REPOSITORY, Machine, Recordings

from memtrace.replay.requests import Requests, read_requests
from memtrace.whatif.registry import apply_all

MODELS = ("mlp", "encoder", "llama")


def states_of(requests: Requests) -> dict[str, int]:
    """Name -> bytes of what an optimizer keeps; numbers of steps aside."""
    rows = requests.rows.select(["category", "label"]).to_pylist()
    return {
        row["label"]: size
        for row, size in zip(rows, requests.size_bytes.tolist(), strict=True)
        if row["category"] == "optimizer_state" and not str(row["label"]).startswith("step of")
    }


def main() -> None:
    """A row for each model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--recordings", default=str(REPOSITORY / "build" / "held_cases"))
    recordings = Recordings(
        Path(parser.parse_args().recordings), Machine(device="cpu", python=sys.executable)
    )
    for model in MODELS:
        run = f"--model {model} --train --batch 2 --sequence 32 --optimizer"
        recorded = read_requests(recordings.trace(f"{run} sgd"), device="cpu")
        changed, _ = apply_all(recorded, {"optimizer": ("adamw8bit",)})
        predicted = states_of(changed)
        real = states_of(read_requests(recordings.trace(f"{run} adamw8bit"), device="cpu"))
        same = sum(real.get(name) == size for name, size in predicted.items())
        print(
            f"{model}: {same} of {len(real)} states as predicted ({len(predicted)});"
            f" {sum(predicted.values()):,} bytes, really {sum(real.values()):,}",
            flush=True,
        )


if __name__ == "__main__":
    main()
