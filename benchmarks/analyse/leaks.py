"""How long `memtrace leaks` takes on a long training, as a person waits for it: a whole process.

    python benchmarks/analyse/leaks.py [--steps 2000] [--allocations 2500] [--rounds 5]

The trace is made here: of each step's allocations most end in it; every fifth in the next one, as
gradients do; every hundredth lives for some steps, as in a cache; and the last one is never freed.
That one must be what the command names.
Wall and CPU time are medians; the pages of the trace are in the system's cache.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from analyse.reading import run

from memtrace.dataset_writer import DatasetWriter
from memtrace.schema import FORMAT_VERSION, SCHEMAS

KEY = "process=box-1-a"
ROWS_PER_GROUP = 131_072
CACHED_STEPS = 5
LEAK_BYTES = 4096
NEVER = 2**40


def words(codes: np.ndarray, texts: list[str]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(codes.astype(np.int32), pa.array(texts))


def write_trace(trace_dir: Path, steps: int, per_step: int) -> None:
    """Allocations of one device, their events and the steps."""
    n = steps * per_step
    number = np.arange(n)
    within = number % per_step
    leaks, cached, carried = within == per_step - 1, within % 100 == 0, within % 5 == 1
    size = np.where(leaks, LEAK_BYTES, 512 + 512 * (number % 7))
    # Born at 0, 2, 4, ...; most die before their step ends.
    short = np.minimum(1 + 2 * (number % 40), 2 * (per_step - within) - 1)
    lasting = 2 * per_step * np.where(cached, CACHED_STEPS, 1) + 1
    died = 2 * number + np.where(cached | carried, lasting, short)
    died[leaks | (died >= 2 * n)] = NEVER
    freed = np.flatnonzero(died < NEVER)
    order = np.argsort(np.concatenate([2 * number, died[freed]]), kind="stable")
    seq = np.empty(len(order), np.int64)
    seq[order] = np.arange(len(order))
    born_seq, free_seq = seq[:n], np.full(n, -1)
    free_seq[freed] = seq[n:]
    starts = born_seq[::per_step]
    whose = np.concatenate([number, freed])[order]
    is_free = order >= n
    allocated = np.cumsum(np.where(is_free, -size[whose], size[whose]))
    device = ["cuda:0"]
    sources = [f"model.py:{line} forward" for line in range(40)] + ["train.py:42 main"]
    operators = ["aten::addmm", "aten::gelu", "aten::add", "aten::clone"]
    rows = {
        "events": {
            "seq": np.arange(len(order)),
            "time_ns": 1000 * np.arange(len(order)),
            "device": words(np.zeros(len(order)), device),
            "action": words(is_free, ["alloc", "free_requested"]),
            "allocation_id": whose + 1,
            **{f"{of}_bytes": allocated for of in ("allocated", "active", "reserved")},
        },
        "allocations": {
            "allocation_id": number + 1,
            "device": words(np.zeros(n), device),
            "origin": words(np.zeros(n), ["recorded"]),
            "size_bytes": size,
            "block_bytes": size,
            "alloc_seq": born_seq,
            "free_seq": pa.array(free_seq, mask=free_seq < 0),
            "release_seq": pa.array(free_seq, mask=free_seq < 0),
            "source": words(np.where(leaks, 40, within % 40), sources),
            "operator": words(np.where(leaks, 3, within % 3), operators),
            "category": words(np.where(leaks, 1, 0), ["temporary", "other"]),
        },
        "steps": {
            "step": np.arange(steps),
            "start_seq": starts,
            "start_time_ns": 1000 * starts,
            "thread_id": np.ones(steps, np.int64),
            "root_module": words(np.zeros(steps), ["Model"]),
        },
        "processes": {
            "pid": [1],
            "format_version": [FORMAT_VERSION],
            "end_time_ns": [1000 * len(order)],
            "devices": [json.dumps([{"device": "cuda:0", "total_bytes": 80 * 2**30}])],
        },
    }
    for name, schema in SCHEMAS.items():
        columns = rows.get(name, {})
        length = max(map(len, columns.values()), default=0)
        with DatasetWriter(trace_dir / name / KEY, name) as writer:
            table = pa.table(
                {f.name: columns.get(f.name, pa.nulls(length, f.type)) for f in schema}
            )
            for at in range(0, length, ROWS_PER_GROUP):
                writer.write(table.slice(at, ROWS_PER_GROUP).cast(schema))


def check(trace: Path) -> None:
    """What the command says is what the trace was made with."""
    argv = [sys.executable, "-m", "memtrace", "leaks", "--json", str(trace)]
    done = subprocess.run(argv, stdout=subprocess.PIPE, check=True)
    (device,) = json.loads(done.stdout)["devices"]
    growing = [site for site in device["sites"] if site["kind"] == "growth"]
    assert [site["key"] for site in growing] == ["train.py:42 main"], growing
    assert device["bytes_per_step"] == LEAK_BYTES, device["bytes_per_step"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--allocations", type=int, default=2500, help="in each step")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        trace = Path(temporary) / "t.memtrace"
        write_trace(trace, options.steps, options.allocations)
        check(trace)
        argv = [sys.executable, "-m", "memtrace", "leaks", str(trace)]
        rounds = [run(argv, Path(temporary)) for _ in range(options.rounds)]
    wall_s, cpu_s, peak_mib = (statistics.median(part) for part in zip(*rounds))  # noqa: B905
    print(
        f"leaks, {options.steps * options.allocations:,} allocations in {options.steps:,} steps: "
        f"{wall_s:.2f} s   {cpu_s:.2f} s CPU   {peak_mib:.0f} MiB"
    )


if __name__ == "__main__":
    main()
