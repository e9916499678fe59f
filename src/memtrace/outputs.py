"""Every file that can be made of a trace, and where the code that writes it is."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO

from memtrace.trace import Trace


@dataclass(frozen=True)
class Selection:
    """What part of a trace to write.

    Attributes:
        device: only this device; every one when None.
        window_ns: from and to, in ns since the recording began; everything when None.
        large_bytes: of a page: tell every allocation of so much one by one; as there is room when
            None.
        process: of a page: only the process with this key or pid; every one when None.
    """

    device: str | None = None
    window_ns: tuple[int, int] | None = None
    large_bytes: int | None = None
    process: str | None = None


#: Writes a selection of a trace to a binary stream, without holding the whole of it. What it gives
#: back, a line each, a person should know of what was written.
Writer = Callable[[Trace, Selection, IO[bytes]], Sequence[str] | None]


@dataclass(frozen=True)
class OutputSpec:
    """One output: `suffix` is what its files are called by default."""

    name: str
    suffix: str
    summary: str
    module: str
    attribute: str

    def load(self) -> Writer:
        """The writer, imported only now."""
        writer: Writer = getattr(importlib.import_module(self.module), self.attribute)
        return writer


OUTPUTS = (
    OutputSpec(
        "perfetto",
        ".perfetto-trace",
        "counters, calls, stages, allocations with their stacks; for ui.perfetto.dev",
        "memtrace.export.perfetto",
        "write_perfetto",
    ),
    OutputSpec(
        "flamegraph",
        ".flamegraph.html",
        "who holds the bytes at the peak, as a page with a flame graph",
        "memtrace.page.flamegraph",
        "write_flamegraph",
    ),
    OutputSpec(
        "report",
        ".html",
        "one page that needs nothing else: open it in a browser",
        "memtrace.page.report",
        "write_report",
    ),
    OutputSpec(
        "snapshot",
        ".pickle",
        "torch's memory snapshot; for pytorch.org/memory_viz",
        "memtrace.export.snapshot",
        "write_snapshot",
    ),
    OutputSpec(
        "chrome",
        ".chrome.json",
        "counters, stages, steps, calls and memory events as a Chrome trace",
        "memtrace.export.chrome",
        "write_chrome",
    ),
    OutputSpec(
        "speedscope",
        ".speedscope.json",
        "what was held at the peak, by stack; for speedscope.app",
        "memtrace.export.speedscope",
        "write_speedscope",
    ),
    OutputSpec(
        "pprof",
        ".pprof",
        "what was held at the peak, by stack; for go tool pprof",
        "memtrace.export.pprof",
        "write_pprof",
    ),
    OutputSpec(
        "collapsed",
        ".collapsed.txt",
        "what was held at the peak, a line for each stack; for flamegraph.pl",
        "memtrace.export.collapsed",
        "write_collapsed",
    ),
    OutputSpec(
        "csv",
        ".csv",
        "every allocation, a row each; for a spreadsheet",
        "memtrace.export.csv_table",
        "write_csv",
    ),
)


def find_output(name: str) -> OutputSpec:
    """The output of this name."""
    return next(spec for spec in OUTPUTS if spec.name == name)
