"""From a recording to who held its peak: torch's _memory_viz.py, Mosaic and memtrace side by side.

    git clone https://github.com/facebookresearch/mosaic
    python -m venv mosaic/.venv
    mosaic/.venv/bin/pip install altair click omegaconf pandas tabulate
    git clone https://github.com/brendangregg/FlameGraph
    python benchmarks/rivals/peak_owners.py --mosaic mosaic --flamegraph FlameGraph/flamegraph.pl \\
        [100000 1000000 10000000] [--recorded 30000000]

One snapshot of a made-up training (made_up_snapshot.py) for each number of events goes to all; what
is not given is left out. Each command is a process of its own, within limits of time and of address
space. Medians of three interleaved rounds; one round of what takes more than ten seconds. What
failed is not tried at larger sizes. Ends with an error where a tool states another peak than the
events were made with, or Mosaic another number of bytes than memtrace for any stack of it.

What the tools tell differs. _memory_viz.py is run as a file, so that torch is not imported. Its
`memory` draws who holds memory at the *end*; who held the peak, its `trace_plot` leaves to a
browser, whose script comes from the network and is not run here: its times are a lower bound.
Mosaic counts requested bytes from the first event on; memtrace these, and the blocks that torch
counts as allocated. A recording of memtrace's own needs no pickle: --recorded opens one.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from finalise.throughput import measure as finalise
from finalise.throughput import write_spool
from rivals.limited_run import Limits, Result, Tool, run, size_bytes

_ROUNDS, _SHORT_S = 3, 10.0


def tools(folder: Path, options: argparse.Namespace) -> list[Tool]:
    pickle, trace, page = folder / "s.pickle", folder / "s.memtrace", folder / "out.html"
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        raise SystemExit("torch is not installed: its _memory_viz.py is one of the rivals")
    viz = [sys.executable, str(Path(found.origin).parent / "cuda/_memory_viz.py")]
    ours = [sys.executable, "-m", "memtrace"]
    told = [Tool("_memory_viz.py stats", [*viz, "stats", str(pickle)])]
    if options.flamegraph:
        home, svg = folder / "home", folder / "out.svg"
        (home / ".cache").mkdir(parents=True)  # where it looks before it downloads
        shutil.copy(options.flamegraph, home / ".cache/flamegraph.pl")
        words = [*viz, "memory", str(pickle), "-o", str(svg)]
        told.append(Tool("_memory_viz.py memory", words, svg, environ={"HOME": str(home)}))
    words = [*viz, "trace_plot", str(pickle), "-o", str(page)]
    told.append(Tool("_memory_viz.py trace_plot", words, page))
    if options.mosaic:
        checkout = options.mosaic.resolve()
        environ = {"PYTHONPATH": str(checkout)}  # its setup.py does not install
        mosaic = [str(checkout / ".venv/bin/python"), "-m"]
        words = [*mosaic, "mosaic.cmd.get_memory_usage_peak", "--snapshot", str(pickle)]
        states = r"Total Overall Peak Memory Usage \(Dynamic \+ Static\): ([\d.]+) GiB"
        owners = r"Num of Calls: (\d+), Memory Usage: ([\d.e-]+) GiB"
        told.append(Tool("mosaic_get_memory_usage_peak", words, None, states, owners, environ))
        words = [*mosaic, "mosaic.cmd.get_memory_profile", "--snapshot", str(pickle),
                 "--out-path", str(page)]  # fmt: skip
        told.append(Tool("mosaic_get_memory_profile", words, page, environ=environ))
    return [
        *told,
        Tool("memtrace import", [*ours, "import", "--force", str(pickle), "-o", str(trace)], trace),
        Tool("memtrace peak --by stack", [*ours, "peak", "--by", "stack", str(trace)]),
        Tool("memtrace report", [*ours, "report", "--force", str(trace), "-o", str(page)], page),
    ]


@dataclass
class Reached:
    """By a tool's name: the largest size that it opened, and the size at which it failed."""

    opened: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)


def measure(events: int, options: argparse.Namespace, reached: Reached, folder: Path) -> None:
    """The table of one size."""
    pickle, trace = folder / "s.pickle", folder / "s.memtrace"
    maker = [sys.executable, str(Path(__file__).with_name("made_up_snapshot.py"))]
    made = json.loads(subprocess.check_output([*maker, str(events), str(pickle)]))
    limits = Limits(options.seconds, options.gib)
    wanted = tools(folder, options)
    results = {tool.name: Result() for tool in wanted}
    for tool in wanted:
        if tool.name in reached.failed:
            results[tool.name].failure = f"not tried: failed at {reached.failed[tool.name]:,}"
    for _ in range(_ROUNDS):
        for tool in wanted:
            result = results[tool.name]
            if not result.failure and all(wall_s < _SHORT_S for wall_s in result.wall_s):
                run(tool, result, limits, folder)
                where = reached.failed if result.failure else reached.opened
                where[tool.name] = events
    load = " ".join(f"{part:.1f}" for part in os.getloadavg())
    pickle_mb, trace_mb = size_bytes(pickle) / 1e6, size_bytes(trace) / 1e6
    print(f"\n{made['events']:,} events, load {load}: torch's pickle {pickle_mb:,.1f} MB, "
          f"memtrace's trace {trace_mb:,.1f} MB")  # fmt: skip
    show(wanted, results)
    check(results, made, trace)


def measure_recorded(events: int, options: argparse.Namespace, folder: Path) -> None:
    """What memtrace takes for a recording of its own, which is in no pickle (synthetic events)."""
    trace = folder / "s.memtrace"
    write_spool(trace, events)
    finalise(trace)
    words = [sys.executable, "-m", "memtrace", "peak", "--by", "stack", str(trace)]
    tool, result = Tool(f"memtrace peak of {events:,} recorded events", words), Result()
    for _ in range(_ROUNDS):
        run(tool, result, Limits(options.seconds, options.gib), folder)
    print(f"\nmemtrace's own trace of {events:,} events: {size_bytes(trace) / 1e6:,.1f} MB")
    show([tool], {tool.name: result})


def show(wanted: list[Tool], results: dict[str, Result]) -> None:
    print("\n| command | wall | CPU | peak memory | writes |\n| --- | --- | --- | --- | --- |")
    for tool in wanted:
        result = results[tool.name]
        if result.failure:
            print(f"| {tool.name} | {result.failure} | | | |")
            continue
        written = f"{result.written_bytes / 1e6:,.1f} MB" if result.written_bytes else ""
        print(f"| {tool.name} | {_cells(*result.told())} | {written} |")
    ours = ("memtrace import", "memtrace peak --by stack")
    parts = [results[name] for name in ours if name in results]
    if parts and not any(part.failure for part in parts):
        walls, cpus, peaks = zip(*(part.told() for part in parts), strict=True)
        print(f"| memtrace import, then peak | {_cells(sum(walls), sum(cpus), max(peaks))} | |")


def _cells(wall_s: float, cpu_s: float, peak_mib: float) -> str:
    return f"{wall_s:.2f} s | {cpu_s:.2f} s | {peak_mib:,.0f} MiB"


def check(results: dict[str, Result], made: dict[str, int], trace: Path) -> None:
    """Who states the peak must state the one that was made; who names owners, the same ones."""
    wrong = [
        f"{name}: {result.stated_bytes:,}"
        for name, result in results.items()
        if result.stated_bytes not in (None, made["peak_requested_bytes"])
    ]
    agree = [name for name, result in results.items() if result.stated_bytes is not None]
    if not results["memtrace import"].failure:
        agree.append("memtrace")
        for of in ("requested", "allocated"):
            peak = _our_peak(trace, of)
            if peak["total_bytes"] != made[f"peak_{of}_bytes"]:
                wrong.append(f"memtrace peak --of {of}: {peak['total_bytes']:,}")
            owners = sorted((row["allocations"], row["requested_bytes"]) for row in peak["groups"])
            for name, result in results.items():
                if of == "requested" and result.owners and sorted(result.owners) != owners:
                    wrong.append(f"{name} and memtrace name other owners")
    if wrong:
        raise SystemExit(f"another peak than was made: {'; '.join(wrong)}; made: {made}")
    requested, allocated = made["peak_requested_bytes"], made["peak_allocated_bytes"]
    print(
        f"\npeak {requested:,} bytes requested, {allocated:,} in blocks: {', '.join(agree)} agree"
    )


def _our_peak(trace: Path, of: str) -> dict[str, Any]:
    argv = [sys.executable, "-m", "memtrace", "peak", str(trace), "--of", of, "--json"]
    told = subprocess.check_output([*argv, "--by", "stack", "--top", "1000000"])
    peak: dict[str, Any] = json.loads(told)
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("events", nargs="*", type=int, default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--mosaic", type=Path, help="its repository, with what it needs in .venv")
    parser.add_argument("--flamegraph", type=Path, help="flamegraph.pl, which `memory` needs")
    parser.add_argument("--recorded", type=int, help="also open a recording of so many events")
    parser.add_argument("--seconds", type=int, default=300, help="limit for each command")
    parser.add_argument("--gib", type=int, default=16, help="limit of its address space")
    options = parser.parse_args()
    for name in ("mosaic", "flamegraph"):
        if getattr(options, name) is None:
            print(f"left out: what needs --{name}")
    reached = Reached()
    for events in sorted(options.events):
        with tempfile.TemporaryDirectory() as folder:
            measure(events, options, reached, Path(folder))
    if options.recorded:
        with tempfile.TemporaryDirectory() as folder:
            measure_recorded(options.recorded, options, Path(folder))
    print(f"\nLargest tried that opens in {options.seconds} s and {options.gib} GiB:\n")
    for name, events in reached.opened.items():
        print(f"| {name} | {events:,} events |")


if __name__ == "__main__":
    main()
