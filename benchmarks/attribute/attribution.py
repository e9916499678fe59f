"""How long `memtrace attribute` takes, and how much memory it needs.

    python benchmarks/attribute/attribution.py [--millions 10] [--runs 3] [--keep DIR]

The trace is synthetic: the spool of benchmarks/finalise/throughput.py (GPT-2's shape: 600
allocations an iteration), finalised, and then given what a training run has beside it. Of each
iteration the first half is the forward of a step; in the second half a backward frees what the
forward saved, and an optimizer steps. Phases, steps and operators are in the rows; each step has
marks and names of its inputs and outputs, and 500 weights have gradients and two states each.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "finalise"))

import throughput

from memtrace.dataset_writer import DatasetWriter, PartWriter
from memtrace.schema import SCHEMAS

ALLOCATIONS_PER_STEP = 600
PARAMETERS = 500
LIMIT_S, LIMIT_MIB = 5.0, 2048


def make_training(trace_dir: Path) -> None:
    """Turns the trace of decoding into one of training."""
    (key,) = (folder.name for folder in (trace_dir / "allocations").iterdir())
    files = sorted((trace_dir / "allocations" / key).iterdir())
    ids = pa.concat_tables(
        pq.ParquetFile(file).read(["allocation_id", "alloc_seq", "alloc_time_ns"]) for file in files
    ).sort_by("allocation_id")
    seq, time_ns = (ids.column(name).to_numpy() for name in ("alloc_seq", "alloc_time_ns"))
    steps = len(seq) // ALLOCATIONS_PER_STEP
    start = seq[np.arange(steps) * ALLOCATIONS_PER_STEP]
    middle = seq[np.arange(steps) * ALLOCATIONS_PER_STEP + ALLOCATIONS_PER_STEP // 2]
    late = seq[np.arange(steps) * ALLOCATIONS_PER_STEP + ALLOCATIONS_PER_STEP * 9 // 10]
    times = dict(zip(seq.tolist(), time_ns.tolist(), strict=True))
    for file in files:
        _write_phases(file, start, middle, late)
    step_rows, marks = [], []
    for i, (a, b, c) in enumerate(zip(start.tolist(), middle.tolist(), late.tolist(), strict=True)):
        end = int(start[i + 1]) if i + 1 < steps else int(seq[-1])
        step_rows.append(
            {"step": i + 1, "root_module": "GPT2", "thread_id": 1, "start_seq": a, "end_seq": b,
             "start_time_ns": times[a], "end_time_ns": times[b], "grad_enabled": True}
        )  # fmt: skip
        marks += [
            {"seq": at, "time_ns": times[at], "kind": kind, "text": str(i), "thread_id": 1}
            for at, kind in (
                (b, "backward_begin"), (c, "backward_end"), (c, "optimizer_begin"),
                (end, "optimizer_end"),
            )
        ]  # fmt: skip
    names = _names(steps, start)
    rows = {"steps": step_rows, "marks": marks, "names": names}
    for dataset, found in rows.items():
        shutil.rmtree(trace_dir / dataset / key)
        with DatasetWriter(trace_dir / dataset / key, dataset) as writer:
            writer.write(pa.Table.from_pylist(found, schema=SCHEMAS[dataset]))
    _forget_counts(trace_dir / "processes" / key / "part-00000.parquet")


def _write_phases(file: Path, start: np.ndarray, middle: np.ndarray, late: np.ndarray) -> None:
    table = pq.ParquetFile(file).read()
    seq = table.column("alloc_seq").to_numpy()
    step = np.searchsorted(start, seq, side="right") - 1
    at = np.maximum(step, 0)
    phase = np.where(seq < middle[at], 0, np.where(seq < late[at], 1, 2)).astype(np.int32)
    words = pa.array(["forward", "backward", "optimizer"])
    columns = {
        "phase": pa.DictionaryArray.from_arrays(pa.array(phase), words),
        "step": pa.array(step + 1, mask=step < 0),
    }
    for name, column in columns.items():
        table = table.set_column(table.column_names.index(name), name, column)
    file.unlink()
    with PartWriter(file, "allocations", table.schema) as writer:
        writer.write(table)


def _names(steps: int, start: np.ndarray) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for i in range(PARAMETERS):
        path = f"transformer.h.{i // 12}.layer_{i % 12}.weight"
        tensors = (
            (path, "weight"), (f"grad of {path}", "gradient"),
            (f"exp_avg of {path}", "optimizer_state"), (f"exp_avg_sq of {path}", "optimizer_state"),
        )  # fmt: skip
        rows += [
            {"allocation_id": 4 * i + j + 1, "name": name, "kind": kind, "since_seq": 0}
            for j, (name, kind) in enumerate(tensors)
        ]
    for i in range(steps):
        first = i * ALLOCATIONS_PER_STEP + 4 * PARAMETERS
        at = int(start[i])
        rows += [
            {"allocation_id": first, "name": "input_ids", "kind": "input", "since_seq": at},
            {"allocation_id": first + 200, "name": "logits", "kind": "output", "since_seq": at},
        ]
    return rows


def _forget_counts(file: Path) -> None:
    (row,) = pq.ParquetFile(file).read().to_pylist()
    file.unlink()
    with PartWriter(file, "processes", SCHEMAS["processes"]) as writer:
        writer.write(
            pa.Table.from_pylist([row | {"dataset_rows": None}], schema=SCHEMAS["processes"])
        )


_MEASURED = """
import resource, sys, time
start_s = time.perf_counter()
from memtrace.cli import main
status = main(["attribute", sys.argv[1]])
wall_s = time.perf_counter() - start_s
use = resource.getrusage(resource.RUSAGE_SELF)
told = open("/proc/self/status").read()
print(wall_s, use.ru_utime + use.ru_stime, int(told.split("VmHWM:")[1].split()[0]) // 1024)
sys.exit(status)
"""


def measure(trace_dir: Path) -> tuple[float, float, int]:
    """Wall and CPU seconds of the command, imports and all, and its peak RSS in MiB."""
    argv = [sys.executable, "-c", _MEASURED, str(trace_dir)]
    shown = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout
    wall_s, cpu_s, peak_mib = shown.splitlines()[-1].split()
    return float(wall_s), float(cpu_s), int(peak_mib)


def print_categories(trace_dir: Path) -> None:
    """How many allocations each category got: the trace has something of most rules."""
    table = pq.read_table(trace_dir / "allocations", columns=["category"])
    for row in sorted(
        table.column("category").value_counts().to_pylist(), key=lambda r: -r["counts"]
    ):
        print(f"  {row['values']:16} {row['counts']:>10,}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=float, default=10)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="directory for the trace, kept afterwards")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        trace_dir = arguments.keep or Path(temporary) / "t.memtrace"
        throughput.write_spool(trace_dir, int(arguments.millions * 1e6))
        print(throughput.measure(trace_dir))
        make_training(trace_dir)
        runs = [measure(trace_dir) for _ in range(arguments.runs)]
        for wall_s, cpu_s, peak_mib in runs:
            print(f"attribute: {wall_s:.2f} s, {cpu_s:.2f} s of CPU, peak RSS {peak_mib:,} MiB")
        wall_s, peak_mib = statistics.median(run[0] for run in runs), max(run[2] for run in runs)
        print(
            f"median {wall_s:.2f} s ({LIMIT_S:.0f} allowed for 10 million events), "
            f"{peak_mib:,} MiB ({LIMIT_MIB:,} allowed)"
        )
        print_categories(trace_dir)


if __name__ == "__main__":
    main()
