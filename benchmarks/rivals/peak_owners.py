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
events were made with.

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
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from finalise.throughput import measure as finalise
from finalise.throughput import write_spool

_ROUNDS, _SHORT_S = 3, 10.0
_OUT_OF_MEMORY = r"MemoryError|bad_alloc|malloc|annot allocate memory|more memory"

# From a small process: a child's peak of resident memory begins with its parent's.
_LAUNCH = """
import json, os, resource, signal, sys, time
limit_s, limit_bytes, log, argv = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:]
resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
told = [(os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2)]
begun = time.perf_counter()
pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=told, setpgroup=0)
late = []
signal.signal(signal.SIGALRM, lambda *_: (late.append(True), os.killpg(pid, signal.SIGKILL)))
signal.alarm(limit_s)
_, status, use = os.wait4(pid, 0)
signal.alarm(0)
wall_s, code = time.perf_counter() - begun, os.waitstatus_to_exitcode(status)
print(json.dumps({"wall_s": wall_s, "cpu_s": use.ru_utime + use.ru_stime,
                  "peak_mib": use.ru_maxrss / 1024, "code": code, "late": bool(late)}))
"""


@dataclass
class Tool:
    """A command line, what it writes, and the words in its output that state the peak in GiB."""

    name: str
    argv: list[str]
    writes: Path | None = None
    states: str | None = None
    environ: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Limits:
    seconds: int
    gib: int


@dataclass
class Result:
    """Medians over the rounds; `failure` instead of them."""

    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    peak_mib: list[float] = field(default_factory=list)
    written_bytes: int = 0
    stated_bytes: int | None = None
    failure: str = ""

    def told(self) -> tuple[float, float, float]:
        wall_s, cpu_s, peak_mib = map(statistics.median, (self.wall_s, self.cpu_s, self.peak_mib))
        return wall_s, cpu_s, peak_mib


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
        told.append(Tool("mosaic_get_memory_usage_peak", words, None, states, environ))
        words = [*mosaic, "mosaic.cmd.get_memory_profile", "--snapshot", str(pickle),
                 "--out-path", str(page)]  # fmt: skip
        told.append(Tool("mosaic_get_memory_profile", words, page, environ=environ))
    return [
        *told,
        Tool("memtrace import", [*ours, "import", "--force", str(pickle), "-o", str(trace)], trace),
        Tool("memtrace peak --by stack", [*ours, "peak", "--by", "stack", str(trace)]),
        Tool("memtrace report", [*ours, "report", "--force", str(trace), "-o", str(page)], page),
    ]


def run(tool: Tool, result: Result, limits: Limits, folder: Path) -> None:
    """One round of a tool."""
    log = folder / "log.txt"
    words = [str(limits.seconds), str(limits.gib << 30), str(log), *tool.argv]
    launch = [sys.executable, "-S", "-c", _LAUNCH, *words]
    environ = os.environ | tool.environ
    done = subprocess.run(launch, stdout=subprocess.PIPE, cwd=folder, env=environ, check=True)
    told, said = json.loads(done.stdout), log.read_text(errors="replace")
    if told["late"]:
        so_far = told["peak_mib"] / 1024
        result.failure = f"does not finish in {limits.seconds} s ({so_far:.1f} GiB by then)"
    elif told["code"] and re.search(_OUT_OF_MEMORY, said):
        result.failure = f"out of memory at {limits.gib} GiB, after {told['wall_s']:.0f} s"
    elif told["code"]:
        last = said.strip().splitlines()[-1:] or [""]
        result.failure = f"fails with status {told['code']}: {last[0][:100]}"
    else:
        for name in ("wall_s", "cpu_s", "peak_mib"):
            getattr(result, name).append(told[name])
        result.written_bytes = _size_bytes(tool.writes) if tool.writes else 0
        if tool.states:
            stated = re.search(tool.states, said)
            result.stated_bytes = round(float(stated[1]) * 2**30) if stated else -1


def _size_bytes(path: Path) -> int:
    return sum(p.stat().st_size for p in (path, *path.rglob("*")) if p.is_file())


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
    pickle_mb, trace_mb = _size_bytes(pickle) / 1e6, _size_bytes(trace) / 1e6
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
    print(f"\nmemtrace's own trace of {events:,} events: {_size_bytes(trace) / 1e6:,.1f} MB")
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
    """Whoever states the peak must state the one that the events were made with."""
    stated = {name: r.stated_bytes for name, r in results.items() if r.stated_bytes is not None}
    wrong = {name: n for name, n in stated.items() if n != made["peak_requested_bytes"]}
    if not results["memtrace import"].failure:
        for of in ("requested", "allocated"):
            argv = [sys.executable, "-m", "memtrace", "peak", str(trace), "--of", of, "--json"]
            name = f"memtrace peak --of {of}"
            stated[name] = json.loads(subprocess.check_output(argv))["total_bytes"]
            if stated[name] != made[f"peak_{of}_bytes"]:
                wrong[name] = stated[name]
    if wrong:
        raise SystemExit(f"these state another peak than was made: {wrong}, made {made}")
    print(f"\npeak {made['peak_requested_bytes']:,} bytes requested, "
          f"{made['peak_allocated_bytes']:,} in blocks: so say {', '.join(stated)}")  # fmt: skip


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
