"""How much of the peak each tool leaves without a category, on the same three training steps.

    python benchmarks/attribute/unattributed.py [MODEL ...] [--limit-s SECONDS]

Building the model, the optimizer and three steps lie inside each recording; each tool has a process
of its own. torch.profiler (memory, shapes, stacks) calls the rest Unknown; MemTracker calls it
Other, and it counts a tensor where a dispatcher sees it, so its peak is not the allocator's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import torch

from truth.models import CASES
from truth.program import call, loss_of

STEPS = 3
Setup = tuple[torch.nn.Module, torch.optim.Optimizer]


def setup(case: str) -> Setup:
    torch.manual_seed(0)
    model = CASES[case].build().train()
    trained = [p for p in model.parameters() if p.requires_grad]
    return model, torch.optim.AdamW(trained, lr=1e-3)


def step(case: str, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    loss_of(call(model, CASES[case].inputs())).backward()
    optimizer.step()
    optimizer.zero_grad()


def under_memtrace(case: str) -> tuple[int, int]:
    import memtrace

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.memtrace"
        with memtrace.record(path):
            objects = setup(case)
            for _ in range(STEPS):
                step(case, *objects)
        peak = memtrace.open(path).peak("cpu", by="category")
        rows = {row.key: row.total_bytes for row in peak.breakdown.rows}
        return rows.get("other", 0), peak.total_bytes


def under_profiler(case: str) -> tuple[int, int]:
    from torch.profiler import ProfilerActivity, profile
    from torch.profiler._memory_profiler import _CATEGORY_TO_INDEX, MemoryProfileTimeline

    with profile(
        activities=[ProfilerActivity.CPU], profile_memory=True, record_shapes=True, with_stack=True
    ) as profiler:
        objects = setup(case)
        for _ in range(STEPS):
            step(case, *objects)
    _, sizes = MemoryProfileTimeline(profiler._memory_profile())._coalesce_timeline("cpu")
    highest = max(sizes, key=sum)
    return highest[_CATEGORY_TO_INDEX[None] + 1], sum(highest)


def under_mem_tracker(case: str) -> tuple[int, int]:
    from torch.distributed._tools.mem_tracker import MemTracker

    tracker = MemTracker()
    with tracker:
        model, optimizer = setup(case)
        tracker.track_external(model, optimizer)
        for _ in range(STEPS):
            tracker.reset_mod_stats()
            step(case, model, optimizer)
    peak: dict[Any, dict[Any, int]] = tracker.get_tracker_snapshot("peak")
    (of_cpu,) = (kinds for device, kinds in peak.items() if device.type == "cpu")
    sizes = {str(kind): size for kind, size in of_cpu.items()}
    total = next(size for kind, size in sizes.items() if "TOT" in kind.upper())
    other = sum(size for kind, size in sizes.items() if "OTH" in kind.upper())
    return other, total


TOOLS: dict[str, Callable[[str], tuple[int, int]]] = {
    "memtrace": under_memtrace,
    "torch.profiler": under_profiler,
    "MemTracker": under_mem_tracker,
}


def measured(tool: str, case: str, limit_s: float) -> str:
    argv = [sys.executable, __file__, "--child", tool, case]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return f"not in {limit_s:.0f} s"
    if done.returncode != 0:
        return (done.stderr.strip().splitlines() or ["failed"])[-1][:28]
    other, total = json.loads(done.stdout.splitlines()[-1])
    return f"{100 * other / total:5.1f} % of {total / 2**20:6.2f} MiB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(CASES))
    parser.add_argument("--limit-s", type=float, default=360, help="of each tool on each model")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(TOOLS[options.child](*options.models)))
        return
    print(f"{'model':>16}" + "".join(f"{tool:>30}" for tool in TOOLS))
    for case in options.models:
        cells = "".join(f"{measured(tool, case, options.limit_s):>30}" for tool in TOOLS)
        print(f"{case:>16}{cells}", flush=True)


if __name__ == "__main__":
    main()
