"""What programs/hazards/measured.py said, held against its trace: every event, to the byte."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import memtrace

PROGRAM = Path(__file__).resolve().parents[1] / "programs" / "hazards" / "measured.py"
LEAST_BYTES = 10_000


def check_account(out: bytes, trace_dir: Path) -> memtrace.Trace:
    """The trace has what the program says that it made and kept; nothing was lost. The trace."""
    account: dict[str, Any] = json.loads(out.splitlines()[-1])
    trace = memtrace.open(trace_dir)
    rows = [r for r in trace.allocations.to_pylist() if r["size_bytes"] >= LEAST_BYTES]
    made = Counter(row["size_bytes"] for row in rows)
    assert made == {int(size): count for size, count in account["made"].items()}
    kept = [row["size_bytes"] for row in rows if row["free_seq"] is None]
    assert sorted(kept) == account["kept"]
    (process,) = trace.processes.to_pylist()
    assert (process["lost_total"], process["unmatched_frees"]) == (0, 0), process["lost_events"]
    return trace
