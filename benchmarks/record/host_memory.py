"""What the tracer costs the watched program in memory, however long it runs.

    python benchmarks/record/host_memory.py [--millions 20] [--json]

Runs an allocation-heavy program with and without `memtrace run` and compares its private memory,
with the recorder's mappings counted in full. Many threads, and more distinct stacks than most
programs have, since tables of them are all that may grow.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

THREADS = 8
FUNCTIONS = 400  # each called from two others: stacks
SAMPLES = 10
MIB = 1 << 20
LIMIT_BYTES = 64 * MIB


def private_bytes() -> int:
    """Private memory of this process, and what of the recorder's mappings is not counted in it."""
    total_kb = 0
    with open("/proc/self/smaps") as smaps:
        ours = False
        for line in smaps:
            words = line.split()
            if not words[0].endswith(":"):  # the line that begins a mapping
                ours = line.rstrip().endswith((".bin", "text.log"))
            elif words[0] in ("Private_Clean:", "Private_Dirty:", "Private_Hugetlb:") or (
                ours and words[0] in ("Shared_Clean:", "Shared_Dirty:")
            ):
                total_kb += int(words[1])
    return total_kb * 1024


def run_program(events: int) -> None:
    """The program under watch: prints its memory at even distances, as JSON."""
    import torch
    from torch import nn

    namespace = {"torch": torch}
    code = "".join(
        f"def step_{i}(x):\n    y = torch.empty({i + 1})\n    return torch.empty({i + 2})\n"
        for i in range(FUNCTIONS)
    )
    exec(compile(code, "<steps>", "exec"), namespace)
    steps = [namespace[f"step_{i}"] for i in range(FUNCTIONS)]
    model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(20)])
    rounds = events // (SAMPLES * THREADS * 4)  # two allocations and two frees a step

    def work() -> None:
        with torch.no_grad():
            model(torch.ones(2, 4))
        for i in range(rounds):
            steps[i % FUNCTIONS](None)

    measured = []
    for _ in range(SAMPLES):
        threads = [threading.Thread(target=work) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        measured.append(private_bytes())
    print(json.dumps(measured))


def measure(events: int, *, traced: bool) -> tuple[list[int], int]:
    """Private bytes at even distances of a run, and how many events it recorded."""
    program = [__file__, "--program", str(events)]
    with tempfile.TemporaryDirectory(prefix="memtrace-bench-") as folder:
        trace = Path(folder) / "t.memtrace"
        runner = ["-m", "memtrace", "run", "--quiet", "-o", str(trace)] if traced else []
        done = subprocess.run(
            [sys.executable, *runner, *program], stdout=subprocess.PIPE, check=True
        )
        recorded = 0
        if traced:
            import memtrace

            recorded = memtrace.open(trace).processes["events"][0].as_py()
    return json.loads(done.stdout), recorded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=float, default=20.0, help="events to record")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--program", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.program is not None:
        return run_program(options.program)
    events = int(options.millions * 1e6)
    plain, _ = measure(events, traced=False)
    traced, recorded = measure(events, traced=True)
    added = max(traced) - max(plain)
    # Between the middle and the end nothing may grow any more.
    grown = (traced[-1] - traced[SAMPLES // 2]) - (plain[-1] - plain[SAMPLES // 2])
    found = {"events": recorded, "plain_bytes": max(plain), "traced_bytes": max(traced),
             "added_bytes": added, "grown_in_second_half_bytes": grown}  # fmt: skip
    if options.json:
        print(json.dumps(found))
    else:
        print(f"{recorded:,} events in {THREADS} threads at a time")
        print(f"without memtrace  {max(plain) / MIB:8.1f} MiB private")
        print(f"with memtrace     {max(traced) / MIB:8.1f} MiB, its mappings included")
        print(f"added             {added / MIB:8.1f} MiB (limit {LIMIT_BYTES // MIB})")
        print(f"in the second half{grown / MIB:8.1f} MiB more")
    return None


if __name__ == "__main__":
    main()
