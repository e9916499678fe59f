"""How fast a spool becomes tables, and how large they are.

    python benchmarks/finalise/throughput.py [--millions 4] [--keep DIR] [TRACE ...]

The spool is synthetic, its shape that of GPT-2 decoding on a GPU: per allocation one nested pair of
operator calls, a stack out of some hundred, and three allocator events; iterations repeat their
addresses and sizes, their times jitter. Given traces, only the sizes of theirs are shown.
"""

from __future__ import annotations

import argparse
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from spool_writer import CHUNK_BYTES, CHUNK_MAGIC, RECORD_BYTES, SpoolWriter

MIB = 1 << 20
ITERATIONS_AT_A_TIME = 200
BASE = 1 << 40
ALLOC, FREE_REQUESTED, FREE_COMPLETED, SEGMENT_ALLOC, SPAN = 1, 2, 3, 4, 32

EVENT = np.dtype(
    [
        ("ticks", "<u8"), ("address", "<u8"), ("size", "<u8"), ("stream", "<u8"),
        ("call", "<u4"), ("stack", "<u4"), ("op", "<u4"), ("top", "<u4"), ("order", "<u4"),
        ("reserved", "<u4"), ("thread", "<u4"), ("pool", "<u2"), ("device", "u1"), ("action", "u1"),
    ]
)  # fmt: skip
Records = npt.NDArray[np.void]


def iteration(spool: SpoolWriter, random: np.random.Generator) -> list[tuple[int, ...]]:
    """One decoding step: (action, address, size, call, stack, op, top); calls count from 1."""
    stacks = [
        spool.stack(
            [
                (f"forward_{depth}", f"/home/u/model_{depth % 5}.py", 10 * i + depth, 0)
                for depth in range(25)
            ]
        )
        for i in range(150)
    ]
    ops = [spool.name(f"aten::op_{i}") for i in range(30)]
    steps: list[tuple[int, ...]] = []
    free = [BASE + 4096 * i for i in range(400)]
    held: list[tuple[int, int]] = []
    call = 0
    for i in range(600):
        call += 2
        top, op = ops[i % 30], ops[(i * 7) % 30]
        size = int(random.choice([512, 1024, 3072, 4096]))
        address = free.pop(0)
        steps.append((ALLOC, address, size, call, stacks[i % 150], op, top))
        held.append((address, size))
        steps.append((SPAN, 0, 0, call, 0, op, call - 1))
        steps.append((SPAN, 0, 0, call - 1, 0, top, 0))
        while len(held) > 12 or (held and i == 599):
            address, size = held.pop(int(random.integers(len(held))))
            steps.append((FREE_REQUESTED, address, size, 0, 0, 0, 0))
            steps.append((FREE_COMPLETED, address, size, 0, 0, 0, 0))
            free.append(address)
    return steps


def records(spool: SpoolWriter, events: int) -> Iterator[Records]:
    """All records, some hundred iterations at a time."""
    random = np.random.default_rng(1)
    # Each 4096-byte place is a block of its own: blocks around them are held for good.
    prologue = [(SEGMENT_ALLOC, BASE, 2 * MIB, 0, 0, 0, 0)]
    prologue += [(ALLOC, BASE + 4096 * i, 4096, 0, 0, 0, 0) for i in range(400)]
    prologue += [
        (action, BASE + 4096 * i, 4096, 0, 0, 0, 0)
        for i in range(400)
        for action in (FREE_REQUESTED, FREE_COMPLETED)
    ]
    step = iteration(spool, random)
    first, one = _template(prologue), _template(step)
    repeats = max(1, events // sum(row[0] != SPAN for row in step))
    order = _Order(random)
    yield order.of(first)
    for begin in range(0, repeats, ITERATIONS_AT_A_TIME):
        numbers = np.arange(begin, min(begin + ITERATIONS_AT_A_TIME, repeats), dtype=np.uint32)
        rows = np.tile(one, len(numbers))
        # Calls count on from iteration to iteration.
        calls = np.repeat(numbers, len(one)) * np.uint32(1200)
        rows["call"] = np.where(rows["call"] != 0, rows["call"] + calls, 0)
        # Of a span the fourth word is (name, stack), and `stack` is its parent's number.
        children = (rows["action"] == SPAN) & (rows["stack"] != 0)
        rows["stack"] = np.where(children, rows["stack"] + calls, rows["stack"])
        yield order.of(rows)


class _Order:
    """Gives records their times and the allocator's numbers, which go on from call to call."""

    def __init__(self, random: np.random.Generator) -> None:
        self._random = random
        self._ticks, self._events = np.uint64(0), 0

    def of(self, rows: Records) -> Records:
        gaps = self._random.lognormal(7.5, 0.7, len(rows)).astype(np.uint64) + np.uint64(60)
        rows["ticks"] = self._ticks + np.cumsum(gaps)
        self._ticks = rows["ticks"][-1]
        spans = rows["action"] == SPAN
        rows["address"][spans] = rows["ticks"][spans] - np.uint64(3000)  # start_ticks
        rows["size"][spans] = np.uint64(2**64 - 1)  # no sequence number
        events = int((~spans).sum())
        rows["order"][~spans] = np.arange(self._events + 1, self._events + events + 1)
        self._events += events
        rows["thread"] = 1
        rows["device"] = np.where(spans, 0, 1)
        return rows


def _template(steps: list[tuple[int, ...]]) -> Records:
    rows = np.zeros(len(steps), EVENT)
    for i, (action, address, size, call, stack, op, top) in enumerate(steps):
        rows[i]["action"], rows[i]["address"], rows[i]["size"] = action, address, size
        rows[i]["call"] = call
        if action == SPAN:
            rows[i]["stack"], rows[i]["op"] = top, op  # parent_call, name
        else:
            rows[i]["stack"], rows[i]["op"], rows[i]["top"] = stack, op, top
    return rows


def write_spool(trace_dir: Path, events: int) -> None:
    spool = SpoolWriter(trace_dir, end=(1 << 60, 1 << 60))
    spool.process(devices=[{"device": "cuda:0", "total_bytes": 1 << 34}])
    pieces = records(spool, events)
    left = next(pieces)  # by now the spool has all names
    path = spool.finish()
    per_chunk = CHUNK_BYTES // RECORD_BYTES - 1
    chunks = 0
    with (path / "records.bin").open("wb") as file:
        for rows in chain(pieces, [None]):
            whole = len(left) if rows is None else len(left) // per_chunk * per_chunk
            for at in range(0, whole, per_chunk):
                file.write(_chunk(chunks, left[at : min(at + per_chunk, whole)]))
                chunks += 1
            if rows is not None:
                left = np.concatenate([left[whole:], rows])


def _chunk(index: int, rows: Records) -> bytes:
    ticks = int(rows[0]["ticks"])
    header = struct.pack("<IIQQQ4Q", CHUNK_MAGIC, 1, index, ticks, ticks, *[0] * 4)
    return (header + rows.tobytes()).ljust(CHUNK_BYTES, b"\0")


_MEASURED = """
import resource, sys, time
from pathlib import Path
from memtrace.finalise import use_little_memory
use_little_memory()
from memtrace.finalise import finalise
own = resource.getrusage(resource.RUSAGE_SELF)
start_s = time.perf_counter()
result = finalise(Path(sys.argv[1]))
wall_s = time.perf_counter() - start_s
use = resource.getrusage(resource.RUSAGE_SELF)
status = Path("/proc/self/status").read_text()  # ru_maxrss would be the parent's
peak_kib = int(status.split("VmHWM:")[1].split()[0])
cpu_s = use.ru_utime + use.ru_stime - own.ru_utime - own.ru_stime
print(
    f"{result.events:,} events in {wall_s:.2f} s: {result.events / wall_s / 1e6:.2f} M/s, "
    f"{cpu_s / wall_s:.2f} cores, {cpu_s / result.events * 1e9:.0f} ns CPU per event, "
    f"peak RSS {peak_kib // 1024} MiB"
)
"""


def measure(trace_dir: Path) -> str:
    """Finalises in a process of its own, so that its memory is its own."""
    argv = [sys.executable, "-c", _MEASURED, str(trace_dir)]
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout.rstrip()


_PEAK = """
import contextlib, runpy, sys
from pathlib import Path
sys.argv = ["memtrace", "peak", sys.argv[1]]
with contextlib.suppress(SystemExit):
    runpy.run_module("memtrace", run_name="__main__")
status = Path("/proc/self/status").read_text()
print(int(status.split("VmHWM:")[1].split()[0]) // 1024, file=sys.stderr)
"""


def measure_peak(trace_dir: Path) -> str:
    """`memtrace peak` of the finished trace, the start of the interpreter included."""
    start_s, start = time.perf_counter(), os.times()
    argv = [sys.executable, "-c", _PEAK, str(trace_dir)]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    wall_s, end = time.perf_counter() - start_s, os.times()
    cpu_s = end.children_user + end.children_system - start.children_user - start.children_system
    return f"memtrace peak: {wall_s:.2f} s, {cpu_s:.2f} s CPU, {done.stderr.split()[-1]} MiB"


def print_sizes(trace_dir: Path) -> None:
    folders = sorted(path for path in trace_dir.iterdir() if path.is_dir())
    sizes = {
        folder.name: sum(file.stat().st_size for file in folder.rglob("*.parquet"))
        for folder in folders
    }
    events = sum(pq.ParquetFile(f).metadata.num_rows for f in trace_dir.glob("events/*/*.parquet"))
    print(f"{trace_dir.name}: {events:,} events, {sum(sizes.values()) / 1e6:.1f} MB")
    for name, size in sizes.items():
        print(f"  {name:12} {size / max(events, 1):7.3f} bytes/event")
    print(f"  {'all':12} {sum(sizes.values()) / max(events, 1):7.3f} bytes/event")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=float, default=4)
    parser.add_argument("--keep", type=Path, help="directory for the trace, kept afterwards")
    parser.add_argument("traces", nargs="*", type=Path)
    arguments = parser.parse_args()
    for trace in arguments.traces:
        print_sizes(trace)
    if arguments.traces:
        return
    with tempfile.TemporaryDirectory() as temporary:
        trace_dir = arguments.keep or Path(temporary) / "t.memtrace"
        write_spool(trace_dir, int(arguments.millions * 1e6))
        print(measure(trace_dir))
        print(measure_peak(trace_dir))
        print_sizes(trace_dir)


if __name__ == "__main__":
    main()
