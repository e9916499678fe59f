"""A made-up program whose every size is a known law of its calls' shapes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from memtrace.replay.requests import Requests, read_requests
from memtrace.trace import open_trace
from trace_builder import ProcessBuilder, TraceBuilder

Size = Callable[[int, int], int]


@dataclass(frozen=True)
class Program:
    """Attributes:
    sites: in a call, one after the other; every other one is freed at once.
    trained: each has a loss and a backward after it.
    between: what is allocated between two calls, of the shape of the one before.
    warm: what the first call alone allocates.
    """

    sites: Sequence[Size]
    trained: bool = False
    between: Sequence[Size] = ()
    warm: int = 0
    device: str = "cpu"

    def requests(self, path: Path, shapes: Sequence[tuple[int, int]]) -> Requests:
        """Recorded with calls of these batch sizes and sequence lengths."""
        builder = TraceBuilder(path)
        process = builder.process()
        for i in range(3):
            process.alloc(self.device, 5000 + i, operator="aten::empty", category="weight")
        for batch, length in shapes:
            self._call(process, batch, length)
        builder.write()
        return read_requests(open_trace(path), device=self.device)

    def _call(self, process: ProcessBuilder, batch: int, length: int) -> None:
        first = not process.rows["steps"]
        given = process.alloc(
            self.device, 8 * batch * length, operator="aten::randint", source="train.py:5 main",
            category="input", label="input_ids",
        )  # fmt: skip
        kept = []
        shapes = json.dumps({"input_ids": [batch, length]})
        with process.step(batch_size=batch, input_shapes=shapes) as step:
            process.name(given, "input_ids", kind="input", since_seq=step["start_seq"])
            of = {"step": step["step"], "phase": "forward", "category": "activation"}
            if first and self.warm:
                process.alloc(self.device, self.warm, operator="aten::mm", module="0", **of)
            for i, size in enumerate(self.sites):
                module = f"{i // 2}"  # two of each place
                row = process.alloc(
                    self.device, size(batch, length), operator="aten::mm", module=module, **of
                )
                kept.append(row) if i % 2 else process.free(row)
        after = [
            process.alloc(self.device, size(batch, length), operator="aten::pow",
                          source=f"train.py:{9 + i} main")
            for i, size in enumerate(self.between)
        ]  # fmt: skip
        if self.trained:
            for i, row in reversed(list(enumerate(kept))):
                gradient = process.alloc(
                    self.device, row["size_bytes"], operator="aten::mm_backward", module=f"{i}",
                    step=step["step"], phase="backward",
                )  # fmt: skip
                process.free(row)
                process.free(gradient)
        for row in [given, *after, *([] if self.trained else kept)]:
            process.free(row)
