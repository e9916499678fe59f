"""What attribution costs the program that is recorded: two versions of memtrace, interleaved.

    git worktree add ../before c141ef1 && make -C ../before .venv/.installed
    .venv/bin/python benchmarks/attribute/run_time.py ../before [--pairs 30]

c141ef1 is the last commit that records without what attribution needs (steps, contexts, gradients,
optimizer states, inputs and outputs). Each version has a process of its own that lives on; they
take turns, a pair each: one iteration with nothing and one recorded, next to each other in time;
thread CPU time; the ratio of a pair is what counts. Printed: medians and quartiles of the ratios,
and the difference of the medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CHILD = """
import gc, os, sys
os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, "benchmarks")
import torch
from record.whole_program import ratios
from record.workloads import WORKLOADS
torch.set_num_threads(1)
iteration = WORKLOADS[sys.argv[1]]()
for _ in range(3):
    iteration()
gc.collect()
gc.freeze()
for line in sys.stdin:
    print(ratios(iteration, "memtrace", 1, int(line))[0], flush=True)
"""
REPEATS = {"tiny": 5, "training": 10, "realistic": 1}


class Version:
    """A checkout with its environment, measuring."""

    def __init__(self, root: Path, workload: str) -> None:
        argv = [str(root / ".venv" / "bin" / "python"), "-c", CHILD, workload]
        self._process = subprocess.Popen(
            argv, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.ratios: list[float] = []

    def measure(self, repeats: int) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(repeats, file=self._process.stdin, flush=True)
        self.ratios.append(float(self._process.stdout.readline()))

    def close(self) -> None:
        self._process.communicate()

    def shown(self) -> str:
        low, _, high = statistics.quantiles(self.ratios, n=4)
        return f"{statistics.median(self.ratios):.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, help="a checkout of c141ef1 with its .venv")
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--workload", nargs="*", default=list(REPEATS), choices=list(REPEATS))
    options = parser.parse_args()
    os.environ.pop("MEMTRACE_RECORD", None)
    print(f"{'workload':>12}{'recording alone':>26}{'with attribution':>26}{'adds':>8}")
    for workload in options.workload:
        before, now = Version(options.before, workload), Version(ROOT, workload)
        for pair in range(options.pairs + 1):
            for version in (before, now) if pair % 2 else (now, before):
                version.measure(REPEATS[workload])
        for version in (before, now):
            del version.ratios[0]  # imports, first sights
            version.close()
        adds = statistics.median(now.ratios) - statistics.median(before.ratios)
        print(f"{workload:>12}{before.shown():>26}{now.shown():>26}{adds:>+8.3f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
