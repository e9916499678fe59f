"""Where a recording first differs from torch's own account, per program: nowhere, it must say.

    python benchmarks/exact/first_divergence.py [PROGRAM ...] [--setting expandable ...]

Each program of tests/programs/cuda runs twice under memtrace on the simulated CUDA runtime: beside
torch's memory history (events one for one; peak of allocated bytes, which counts whole blocks) and,
where it has one thread, beside torch.profiler (the block's bytes of every allocation). tests/exact
fails on any difference; this shows where it is.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from exact.comparison import (
    devices,
    events_of,
    recorded_by_memtrace,
    recorded_by_torch,
    since_reset,
)
from exact.recording import Recording, constants, program_names, record
from exact.test_allocator import SETTINGS


@dataclass(frozen=True)
class Row:
    """One program under one setting."""

    events: int
    event: str  # the first that differs from torch's history
    blocks: int
    block: str  # the first allocation whose block is not the profiler's
    peak_bytes: int
    peak_difference_bytes: int


def first_event(run: Recording) -> tuple[int, str]:
    """How many events torch has, and the first that is not ours."""
    count, found = 0, "none"
    for device in devices(run):
        ours, theirs = recorded_by_memtrace(events_of(run, device)), recorded_by_torch(run, device)
        count += len(theirs)
        for index, pair in enumerate(zip(ours, theirs, strict=False)):
            if pair[0] != pair[1] and found == "none":
                found = f"cuda:{device} event {index}: {pair[0]}, torch {pair[1]}"
        if len(ours) != len(theirs) and found == "none":
            found = f"cuda:{device}: {len(ours)} events, torch {len(theirs)}"
    return count, found


def first_block(run: Recording) -> tuple[int, str]:
    """How many allocations the profiler reports, and the first whose block is not ours."""
    count, found = 0, "none"
    for device in sorted({row[0] for row in run.torch["allocations"]}):
        theirs = [row[1:] for row in run.torch["allocations"] if row[0] == device and row[2] > 0]
        ours = [
            (row["address"], row["block_bytes"])
            for row in run.events(device)
            if row["action"] == "alloc"
        ]
        count += len(theirs)
        rest = iter(ours)
        for index, block in enumerate(theirs):
            if block not in rest:
                found = f"{device} allocation {index}: torch {block[1]} bytes at {block[0]:#x}"
                break
    return count, found


def peak(run: Recording) -> tuple[int, int]:
    """Torch's peak of allocated bytes since its last reset, and ours less it, over all devices."""
    total, difference = 0, 0
    for device in devices(run):
        theirs = run.torch["stats"][device].get("allocated_bytes.all.peak", 0)
        window = since_reset(run, device, events_of(run, device))
        total += theirs
        difference += max((row["allocated_bytes"] for row in window), default=0) - theirs
    return total, difference


def compare(program: str, setting: str) -> Row:
    """Runs and compares one program."""
    with tempfile.TemporaryDirectory(prefix="memtrace-exact-") as folder:
        run = record(program, SETTINGS[setting], "history", Path(folder))
        events, event = first_event(run)
        peak_bytes, peak_difference_bytes = peak(run)
    blocks, block = 0, "several threads"
    if constants(program)["SINGLE_THREADED"]:
        with tempfile.TemporaryDirectory(prefix="memtrace-exact-") as folder:
            blocks, block = first_block(
                record(program, SETTINGS[setting], "profiler", Path(folder))
            )
    return Row(events, event, blocks, block, peak_bytes, peak_difference_bytes)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help="default: all")
    parser.add_argument("--setting", nargs="+", choices=SETTINGS, default=["default"])
    options = parser.parse_args()
    print(
        f"{'program':27}{'setting':12}{'events':>8}  {'differs at':18}"
        f"{'blocks':>8}  {'differs at':18}{'peak bytes':>14}{'off by':>8}"
    )
    exact = True
    for program in options.programs or program_names():
        for setting in options.setting:
            row = compare(program, setting)
            print(
                f"{program:27}{setting:12}{row.events:>8,}  {row.event:18}{row.blocks:>8,}  "
                f"{row.block:18}{row.peak_bytes:>14,}{row.peak_difference_bytes:>8,}",
                flush=True,
            )
            exact &= row.event == "none" and row.block in ("none", "several threads")
            exact &= row.peak_difference_bytes == 0
    return 0 if exact else 1


if __name__ == "__main__":
    sys.exit(main())
