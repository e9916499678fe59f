"""How fast a spool becomes tables, and how large they are.

    python benchmarks/finalise/throughput.py [--millions 4] [--keep DIR] [TRACE ...]

The spool is synthetic, its shape that of GPT-2 decoding on a GPU: per allocation one nested pair of
operator calls, a stack out of some hundred, and three allocator events; iterations repeat their
addresses and sizes, their times jitter. Given traces, only the sizes of theirs are shown.
"""

from __future__ import annotations

import argparse
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from spool_writer import CHUNK_BYTES, CHUNK_MAGIC, RECORD_BYTES, SpoolWriter

MIB = 1 << 20
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


def records(spool: SpoolWriter, events: int) -> Records:
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
    per_step = sum(row[0] != SPAN for row in step)
    repeats = max(1, events // per_step)
    first, one = _template(prologue), _template(step)
    rows = np.concatenate([first, np.tile(one, repeats)])
    # Calls count on from iteration to iteration.
    numbers = np.repeat(np.arange(repeats, dtype=np.uint32), len(one)) * np.uint32(1200)
    rest = rows[len(first) :]
    rest["call"] = np.where(rest["call"] != 0, rest["call"] + numbers, 0)
    spans = rest["action"] == SPAN
    # Of a span the fourth word is (name, stack), and `stack` is its parent's number.
    parents = rest["stack"] != 0
    rest["stack"] = np.where(spans & parents, rest["stack"] + numbers, rest["stack"])
    gaps = random.lognormal(7.5, 0.7, len(rows)).astype(np.uint64) + np.uint64(60)
    rows["ticks"] = np.cumsum(gaps)
    all_spans = rows["action"] == SPAN
    rows["address"][all_spans] = rows["ticks"][all_spans] - np.uint64(3000)  # start_ticks
    rows["size"][all_spans] = np.uint64(2**64 - 1)  # no sequence number
    is_event = ~all_spans
    rows["order"][is_event] = np.arange(1, is_event.sum() + 1, dtype=np.uint32)
    rows["thread"] = 1
    rows["device"] = np.where(is_event, 1, 0)
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
    rows = records(spool, events)
    path = spool.finish()
    per_chunk = CHUNK_BYTES // RECORD_BYTES - 1
    with (path / "records.bin").open("wb") as file:
        for index, at in enumerate(range(0, len(rows), per_chunk)):
            part = rows[at : at + per_chunk]
            ticks = int(part[0]["ticks"])
            header = struct.pack("<IIQQQ4Q", CHUNK_MAGIC, 1, index, ticks, ticks, *[0] * 4)
            file.write((header + part.tobytes()).ljust(CHUNK_BYTES, b"\0"))


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
        print_sizes(trace_dir)


if __name__ == "__main__":
    main()
