"""Where time goes that instructions do not show: misses of simulated caches, and of branches.

    python benchmarks/record/cache_misses.py

One iteration of tiny GPT-2 for each variant, under callgrind: what it adds to one with nothing, in
memtrace, in torch, and in the program whose lines it pushes out. The caches: 32 KiB for
instructions, 48 KiB for data, 1 MiB behind both, lines of 64 bytes; the predictor of branches is
callgrind's, which misses more than a processor's. Needs valgrind and a C compiler; a minute.
"""

from __future__ import annotations

import ctypes
import gc
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gate.gate import callgrind_dumps

CACHES = ("--I1=32768,8,64", "--D1=49152,12,64", "--LL=1048576,16,64")
TURNS = 4  # first sights are paid in the first ones
NOTHING = "nothing (noise)"
COUNTED = (
    NOTHING,
    "RecordFunction, callbacks do nothing",
    "RecordFunction, clock and records",
    "memtrace, no operators, no stacks",
    "memtrace, no stacks",
    "memtrace",
)
#: Columns, and the events of callgrind that are added up in each.
COLUMNS = {
    "instructions": ("Ir",),
    "I1 misses": ("I1mr",),
    "D1 misses": ("D1mr", "D1mw"),
    "L2 misses": ("ILmr", "DLmr", "DLmw"),
    "mispredicted": ("Bcm", "Bim"),
}


def run_counted(shim_path: str) -> None:
    """In callgrind: the last of some iterations with every variant, all called from one place."""
    import torch
    from record.whole_program import VARIANTS
    from record.workloads import tiny

    shim = ctypes.CDLL(shim_path)
    torch.set_num_threads(1)
    iteration = tiny()
    for variant in COUNTED:
        with VARIANTS[variant]():
            gc.collect()
            gc.disable()
            for turn in range(TURNS):
                if turn == TURNS - 1:
                    shim.count_begin()
                iteration()
            shim.count_end(variant.encode())
            gc.enable()


def count() -> dict[str, dict[str, int]]:
    """By variant, by event of callgrind."""
    dumps = callgrind_dumps(Path(__file__), "--cache-sim=yes", "--branch-sim=yes", *CACHES)
    return dict(filter(None, map(read, dumps)))


def read(dump: str) -> tuple[str, dict[str, int]] | None:
    """A dump's variant and its events; None: it ends no variant."""
    found = {
        key: re.search(pattern, dump, re.MULTILINE)
        for key, pattern in {
            "variant": r"^desc: Trigger: Client Request: (.+)$",
            "events": r"^events: (.+)$",
            "totals": r"^totals: (.+)$",
        }.items()
    }
    if not all(found.values()):
        return None
    variant, events, totals = (match[1] for match in found.values() if match)
    # Zeros at the end of a line are left out.
    return variant, dict(zip(events.split(), map(int, totals.split()), strict=False))


def main() -> None:
    if len(sys.argv) > 1:
        run_counted(sys.argv[1])
        return
    counted = count()
    print(f"{'':38s}" + "".join(f"{column:>14s}" for column in COLUMNS))
    for variant in COUNTED:
        added = [
            sum(counted[variant].get(event, 0) for event in events)
            - (variant != NOTHING and sum(counted[NOTHING].get(event, 0) for event in events))
            for events in COLUMNS.values()
        ]
        title = "nothing: all that the program has" if variant == NOTHING else variant
        print(f"{title:38s}" + "".join(f"{each:14,d}" for each in added))


if __name__ == "__main__":
    main()
