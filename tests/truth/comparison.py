"""A run of program.py beside its trace: what memtrace says of bytes whose category is known."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

import memtrace

TESTS = Path(__file__).resolve().parent.parent
Row = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A trace of one process, and what the program said of it."""

    trace: memtrace.Trace
    device: str
    truth: dict[str, Any]

    @cached_property
    def rows(self) -> list[Row]:
        """All allocations: a model on a GPU has numbers on the CPU."""
        return list(self.trace.allocations.to_pylist())

    @cached_property
    def stage_seqs(self) -> dict[str, tuple[int, int]]:
        """First event of each of the program's stages, and of what comes after it."""
        rows = [row for row in self.trace.stages.to_pylist() if row["kind"] == "user"]
        return {
            row["name"]: (
                row["start_seq"],
                row["end_seq"] if row["end_seq"] is not None else 1 << 62,
            )
            for row in rows
        }

    def live(self, seq: int) -> list[Row]:
        """What was live before the event of that number."""
        return [
            row
            for row in self.rows
            if row["alloc_seq"] < seq and (row["free_seq"] is None or row["free_seq"] >= seq)
        ]

    @cached_property
    def labelled_seqs(self) -> dict[str, int]:
        """The births of tensors that the program has labelled as instants."""
        return {
            row["label"].removeprefix("instant "): row["alloc_seq"]
            for row in self.rows
            if (row["label"] or "").startswith("instant ")
        }

    def live_at(self, instant: str) -> dict[int, Row]:
        """By address, what was live at an instant of the program's."""
        seq = self.labelled_seqs.get(instant)
        seq = self.stage_seqs[instant][0] if seq is None else seq
        return {row["address"]: row for row in self.live(seq)}

    def confusion(self) -> Counter[tuple[str, str]]:
        """Bytes over all instants, by category: as the objects say, as memtrace says."""
        table: Counter[tuple[str, str]] = Counter()
        for instant, categories in self.truth["instants"].items():
            live = self.live_at(instant)
            for category, storages in categories.items():
                for address, size_bytes in storages:
                    row = live.get(address)
                    said = "not recorded" if row is None else row["category"]
                    table[category, said] += size_bytes
        return table

    def other_at_peak(self, first: str, last: str) -> tuple[int, int]:
        """Bytes of `other` and all bytes, at the highest moment between two instants."""
        events = self.trace.events
        events = events.filter(pc.equal(events["device"], self.device)).sort_by("seq")
        seqs = events["seq"].to_numpy()
        inside = (seqs >= self.stage_seqs[first][0]) & (seqs < self.stage_seqs[last][0])
        allocated = np.where(inside, events["allocated_bytes"].to_numpy(), -1)
        peak = int(seqs[allocated.argmax()])
        counted = [
            row
            for row in self.live(peak + 1)
            if row["device"] == self.device and row["origin"] != "external"
        ]
        total = sum(row["block_bytes"] for row in counted)
        assert total == allocated.max()
        return sum(row["block_bytes"] for row in counted if row["category"] == "other"), total


def run(
    case: str,
    device: str,
    folder: Path,
    env: dict[str, str] | None = None,
    *,
    program: str = "truth.program",
    records_itself: bool = False,
) -> Run:
    """Records the program with one of its cases."""
    argv = [sys.executable]
    if not records_itself:
        argv += ["-m", "memtrace", "run", "--quiet", "-o", str(folder / "t.memtrace")]
    argv += ["-m", program, case, device, str(folder / "truth.json")]
    env = {**(env or os.environ), "PYTHONPATH": str(TESTS)}
    done = subprocess.run(argv, env=env, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    truth = json.loads((folder / "truth.json").read_text())
    name = "cuda:0" if device == "cuda" else device
    return Run(memtrace.open(folder / "t.memtrace"), name, truth)


def shown(table: Counter[tuple[str, str]]) -> str:
    """A confusion table as text: rows are the truth, columns what memtrace says; bytes."""
    columns = sorted({said for _, said in table})
    lines = [f"{'':>16}" + "".join(f"{column:>16}" for column in columns)]
    for category in dict.fromkeys(category for category, _ in table):
        cells = "".join(f"{table[category, column]:>16,}" for column in columns)
        lines.append(f"{category:>16}{cells}")
    return "\n".join(lines)
