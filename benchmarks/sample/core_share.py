"""What part of a core the sampler takes beside a program, by the memory that the program has.

    python benchmarks/sample/core_share.py [--seconds 60] [--gib 0.5 4]

The sampler runs here as the finaliser runs it while it waits; its CPU time is the kernel's count.
It samples ever less often, so each third of the time is shown by itself.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import memtrace
from memtrace.sample.sampler import Sampler

PROGRAM = """
import sys, torch, memtrace
with memtrace.record(sys.argv[1]):
    held = torch.ones(int(float(sys.argv[2]) * 2**30), dtype=torch.uint8)
    print("ready", flush=True)
    sys.stdin.read()
"""


def shares(trace: Path, gib: float, seconds: float) -> list[float]:
    """Percent of a core in each third of the time."""
    argv = [sys.executable, "-c", PROGRAM, str(trace), str(gib)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        assert program.stdout.readline() == b"ready\n"
        sampler = Sampler(str(trace))
        found = []
        for _ in range(3):
            end_s, begun_s = time.monotonic() + seconds / 3, time.process_time()
            while (left_s := end_s - time.monotonic()) > 0:
                time.sleep(min(sampler.step(), left_s))
            found.append(100 * (time.process_time() - begun_s) / (seconds / 3))
        sampler.close()
        program.stdin.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--gib", type=float, nargs="+", default=[0.5, 4])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for gib in options.gib:
            trace = Path(folder) / f"{gib}.memtrace"
            thirds = "  ".join(f"{share:.2f} %" for share in shares(trace, gib, options.seconds))
            reasons = memtrace.open(trace).samples.column("reason").to_pylist()
            taken = f"{reasons.count('period'):,} readings"
            print(f"{gib:4} GiB held, {options.seconds:.0f} s in thirds: {thirds} ({taken})")


if __name__ == "__main__":
    main()
