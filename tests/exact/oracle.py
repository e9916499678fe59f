"""Runs a program with torch's own bookkeeping on, and keeps what torch says of it at the end.

    python oracle.py history|profiler PROGRAM OUT.pickle

`history`: the allocator's own trace, counters and snapshot. `profiler`: the bytes that
torch.profiler reports for each allocation and free. Recorded by memtrace at the same time; the
tests compare.
"""

from __future__ import annotations

import pickle
import runpy
import sys
from typing import Any

import torch


def run_program(path: str) -> None:
    """Runs the program's main(), and keeps its globals alive as a script's are."""
    globals()["program"] = runpy.run_path(path, run_name="__main__")


def run_with_history(path: str) -> dict[str, Any]:
    torch.cuda.init()
    torch.cuda.memory._record_memory_history(enabled="all", context=None, max_entries=10**7)
    run_program(path)
    devices = range(torch.cuda.device_count())
    stats = [torch.cuda.memory_stats(device) for device in devices]
    snapshot = torch.cuda.memory._snapshot()
    # In the order in which they were recorded, up to the snapshot itself.
    return {
        "stats": stats,
        "traces": snapshot["device_traces"],
        "segments": snapshot["segments"],
        "settings": snapshot["allocator_settings"],
    }


def run_with_profiler(path: str) -> dict[str, Any]:
    torch.cuda.init()
    from torch._C._profiler import _EventType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run_program(path)
    assert profiler.profiler is not None
    tree = profiler.profiler.kineto_results.experimental_event_tree()
    found: list[tuple[int, str, int, int]] = []
    pending = list(tree)
    while pending:
        event = pending.pop()
        pending.extend(event.children)
        if event.tag == _EventType.Allocation:
            fields = event.extra_fields
            if fields.device.type == "cuda":
                device = f"cuda:{max(fields.device.index, 0)}"
                found.append((event.start_time_ns, device, fields.ptr, fields.alloc_size))
    found.sort(key=lambda row: row[0])
    return {"allocations": [row[1:] for row in found]}


def main() -> None:
    mode, path, out = sys.argv[1:4]
    result = run_with_history(path) if mode == "history" else run_with_profiler(path)
    with open(out, "wb") as file:
        pickle.dump(result, file)


if __name__ == "__main__":
    main()
