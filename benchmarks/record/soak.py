"""A long recording: what it keeps in the program's memory, what it writes, what it loses.

    python benchmarks/record/soak.py [--events 1e7] [--threads 2] [--bounded-disk]

One process allocates and frees from a few threads, 400 lines and all kinds of records, until it has
made that many events; nothing may grow with their number but the spool. A spool takes 64 bytes an
event and more: where no disk holds that, --bounded-disk gives back what has been written (of such a
spool nothing can be read but its losses).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from host_memory import FUNCTIONS, MIB, private_bytes
from recording import HooksOn

SAMPLES = 20
EVENTS_PER_STEP = 4  # two tensors that come and go
_PUNCH_HOLE = 3  # and keep the size


class Work:
    """The program: threads that allocate until they are told to end."""

    def __init__(self, threads: int) -> None:
        import torch
        from torch import nn

        namespace: dict[str, Any] = {"torch": torch}
        code = "".join(
            f"def step_{i}():\n    y = torch.empty({i + 1})\n    return torch.empty({i + 2})\n"
            for i in range(FUNCTIONS)
        )
        exec(compile(code, "<steps>", "exec"), namespace)
        self.steps = [namespace[f"step_{i}"] for i in range(FUNCTIONS)]
        self.model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4)))
        self.rounds = [0] * threads
        self.ended = threading.Event()
        self.threads = [threading.Thread(target=self._work, args=(i,)) for i in range(threads)]
        for thread in self.threads:
            thread.start()

    def events(self) -> int:
        """Those of the steps: there are a few more."""
        return sum(self.rounds) * FUNCTIONS * EVENTS_PER_STEP

    def _work(self, number: int) -> None:
        import torch

        x = torch.ones(2, 4)
        while not self.ended.is_set():
            for step in self.steps:
                step()
            self.model(x).sum().backward()
            short = threading.Thread(target=self.steps[0])
            short.start()
            short.join()
            self.rounds[number] += 1

    def end(self) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join()


def written_bytes(folder: Path) -> int:
    """Of all files of the spool, also what was given back."""
    return sum(path.stat().st_size for path in folder.iterdir())


def give_back(records: Path) -> None:
    """The disk's space of the chunks that are full."""
    libc = ctypes.CDLL(None, use_errno=True)
    with records.open("r+b") as file:
        size = ctypes.c_long(records.stat().st_size)
        if size.value and libc.fallocate(file.fileno(), _PUNCH_HOLE, ctypes.c_long(0), size):
            raise OSError(ctypes.get_errno(), "this file system gives no space back", str(records))


def soak(events: int, threads: int, folder: Path, *, bounded_disk: bool) -> dict[str, Any]:
    """Runs until it has made so many events: the samples on the way, and the losses."""
    samples: list[dict[str, float]] = []
    begin_s = time.monotonic()
    with HooksOn(folder=str(folder), beside=False) as hooks:
        work = Work(threads)
        while len(samples) < SAMPLES:
            time.sleep(0.02)
            if bounded_disk:
                give_back(folder / "records.bin")
            if work.events() >= events * (len(samples) + 1) / SAMPLES:
                samples.append({
                    "events": work.events(), "seconds": time.monotonic() - begin_s,
                    "private_bytes": private_bytes(), "spool_bytes": written_bytes(folder),
                })  # fmt: skip
        work.end()
    return {
        "samples": samples,
        "grown_bytes": least_private(samples[-5:]) - least_private(samples[1:6]),
        "spool_bytes_per_event": samples[-1]["spool_bytes"] / samples[-1]["events"],
        "lost": {kind: count for kind, count in hooks.lost.items() if count},
    }


def least_private(samples: list[dict[str, float]]) -> float:
    """The malloc arenas of the short threads come and go by some MiB: what is there without."""
    return min(sample["private_bytes"] for sample in samples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=float, default=1e7, help="to make; 1e9 takes a while")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", help="where the spool is written, for the time of the run")
    parser.add_argument("--bounded-disk", action="store_true", help="give back what is written")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="memtrace-soak-", dir=options.folder) as folder:
        spool = Path(folder) / "spool"
        spool.mkdir()
        found = soak(int(options.events), options.threads, spool, bounded_disk=options.bounded_disk)
    if options.json:
        print(json.dumps(found))
        return
    print("        events   seconds   private MiB     spool MiB")
    for row in found["samples"]:
        print(
            f"{row['events']:14,} {row['seconds']:9.1f} {row['private_bytes'] / MIB:13.1f}"
            f" {row['spool_bytes'] / MIB:13,.0f}"
        )
    print(f"grown from the first quarter to the last {found['grown_bytes'] / MIB:.2f} MiB")
    print(f"written an event {found['spool_bytes_per_event']:.1f} bytes")
    print(f"lost {found['lost'] or 'nothing'}")


if __name__ == "__main__":
    main()
