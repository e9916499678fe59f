"""Made-up programs for property tests: any order of allocations, frees and segments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from memtrace.trace import Trace, open_trace
from trace_builder import ProcessBuilder, TraceBuilder

DEVICES = ("cuda:0", "cuda:1", "cpu")

#: (what, device, size or which): a made-up program, a step each.
PROGRAMS = st.lists(
    st.tuples(
        st.sampled_from(["alloc", "alloc", "free", "hold", "release", "segment", "unsegment"]),
        st.sampled_from(DEVICES),
        st.integers(0, 5000),
    ),
    max_size=60,
)


def perform(process: ProcessBuilder, program: list[tuple[str, str, int]]) -> None:
    live: dict[str, list[dict[str, Any]]] = {device: [] for device in DEVICES}
    held: dict[str, list[dict[str, Any]]] = {device: [] for device in DEVICES}
    segments: dict[str, list[dict[str, Any]]] = {device: [] for device in DEVICES}
    for what, device, number in program:
        if what == "alloc":
            live[device].append(process.alloc(device, number, operator=f"op{number % 5}"))
        elif what in ("free", "hold") and live[device]:
            hold = what == "hold" and device != "cpu"
            row = live[device].pop(number % len(live[device]))
            process.free(row, hold=hold)
            if hold:
                held[device].append(row)
        elif what == "release" and held[device]:
            process.release(held[device].pop(number % len(held[device])))
        elif what == "segment" and device != "cpu":
            segments[device].append(process.segment(device, 2**21))
        elif what == "unsegment" and segments[device]:
            process.unsegment(segments[device].pop())


def recorded(path: Path, program: list[tuple[str, str, int]], rows_per_group: int) -> Trace:
    builder = TraceBuilder(path)
    perform(builder.process(), program)
    return open_trace(builder.write(parts=2, rows_per_group=rows_per_group))
