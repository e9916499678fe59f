"""torchao's int8 weight-only on a language model of 166 M parameters: predicted beside real.

    python benchmarks/fit/int8_weight_only.py [--recordings FOLDER]         # on the CPU

Weights, and the peak from the first step on, in float32 and packed; at a batch of 1, where weights
are the peak, and of 8, where activations have a part in it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from held_cases import first_step, real_peak_bytes
from recordings import REPOSITORY, Machine, Recordings

from memtrace.replay.engine import serve
from memtrace.replay.requests import Requests, read_requests
from memtrace.whatif.registry import apply_all

SCHEME = "int8-weight-only"


def loaded_bytes(requests: Requests) -> int:
    """What stands as the first step begins: the weights, and its input."""
    held = requests.live_at(first_step(requests.trace))
    return int(requests.size_bytes[held].sum())


def main() -> None:
    """A row for each batch size."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--recordings", default=str(REPOSITORY / "build" / "held_cases"))
    recordings = Recordings(
        Path(parser.parse_args().recordings), Machine(device="cpu", python=sys.executable)
    )
    for batch in (1, 8):
        options = f"--model llama_166m --batch {batch} --sequence 64"
        base, real = recordings.trace(options), recordings.trace(f"{options} --quantize {SCHEME}")
        requests = read_requests(base, device="cpu")
        changed, _ = apply_all(requests, {"quantize": (SCHEME,)})
        before = real_peak_bytes(base, "cpu", "allocated")
        after = real_peak_bytes(real, "cpu", "allocated")
        predicted = serve(changed).peak("allocated", start=first_step(base)).total_bytes
        weights = loaded_bytes(requests)
        packed = loaded_bytes(read_requests(real, device="cpu"))
        print(
            f"batch {batch}: weights {weights / 2**20:.1f} -> {packed / 2**20:.1f} MiB"
            f" ({weights / packed:.2f} times), predicted {loaded_bytes(changed) / 2**20:.1f};"
            f" peak {before / 2**20:.1f} -> {after / 2**20:.1f} MiB ({before / after:.2f} times),"
            f" predicted {predicted / 2**20:.1f} ({predicted / after - 1:+.2%})",
            flush=True,
        )


if __name__ == "__main__":
    main()
