"""What live says, worked out from the rows of the finished trace: plain loops, no analysis."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from memtrace.analyse.live_view import DeviceView
from spool_writer import rows


class FinishedFigures:
    """Of one process and device of a finished trace."""

    def __init__(self, trace: Path, device: str) -> None:
        self.events = sorted(rows(trace, "events"), key=lambda row: row["seq"])
        self.device = device
        self.allocations = [
            row
            for row in rows(trace, "allocations")
            if row["device"] == device and row["origin"] != "external"
        ]

    def check(self, view: DeviceView, events: int, *, by: Sequence[str]) -> None:
        """The view is what the rows say after the first so many events of the process.

        `by`: of whom nothing is in the rows that was seen later.
        """
        seen = [e for e in self.events[:events] if e["device"] == self.device]
        now, peak = seen[-1], max(seen, key=lambda e: e["allocated_bytes"])  # the first of equals
        assert view.allocated_bytes == now["allocated_bytes"]
        assert view.peak_bytes == peak["allocated_bytes"]
        assert view.peak_time_ns is not None
        if self.device != "cpu":
            assert view.active_bytes == now["active_bytes"]
            assert view.reserved_bytes == now["reserved_bytes"]
            assert view.peak_reserved_bytes == max(e["reserved_bytes"] for e in seen)
        for grouping in by:
            holders = view.holders[grouping]
            held = {h.name: (h.now_bytes, h.now_blocks) for h in holders if h.now_blocks}
            assert held == self._held(grouping, now["seq"]), grouping
            held = {h.name: (h.peak_bytes, h.peak_blocks) for h in holders if h.peak_blocks}
            assert held == self._held(grouping, peak["seq"]), grouping

    def _held(self, by: str, seq: int) -> dict[str | None, tuple[int, int]]:
        sizes: Counter[str | None] = Counter()
        blocks: Counter[str | None] = Counter()
        for row in self.allocations:
            if row["alloc_seq"] <= seq and (row["free_seq"] is None or row["free_seq"] > seq):
                name = self._name(row, by)
                sizes[name] += row["block_bytes"]
                blocks[name] += 1
        return {name: (sizes[name], blocks[name]) for name in blocks}

    def _name(self, row: dict[str, Any], by: str) -> str | None:
        if by == "category" and row["category_by"] == "lifetime":
            return None
        name = row[by]
        return None if by == "category" and name == "other" else name
