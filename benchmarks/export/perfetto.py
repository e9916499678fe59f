"""How fast a trace becomes a Perfetto file, in how much memory, and how large the file is.

    python benchmarks/export/perfetto.py [--millions 10] [--runs 3] [--keep DIR]

The trace is that of benchmarks/attribute/attribution.py (training: 600 allocations a step, three
events each), whose calls are made to nest and to run in the modules of a model of 12 layers.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "attribute"))

from analyse.reading import run
from attribution import ALLOCATIONS_PER_STEP, make_training
from finalise.throughput import measure, write_spool

from memtrace.dataset_writer import PartWriter
from memtrace.schema import SCHEMAS

LAYERS = 12
PARTS = ("ln_1", "attn.c_attn", "attn", "attn.c_proj", "mlp.c_fc")
EVENTS_PER_SECOND = 300_000  # what is promised
_PATHS = [f"transformer.h.{layer}.{part}" for layer in range(LAYERS) for part in PARTS]


def make_calls(trace_dir: Path) -> None:
    """Nests the calls of operators, which come in pairs, and says which modules they were in."""
    (folder,) = (trace_dir / "operators").iterdir()
    words = pa.array(_PATHS)
    last_ns, rows = 0, 0
    for file in sorted(folder.iterdir()):
        whole = pq.ParquetFile(file)
        tables = [whole.read_row_group(group) for group in range(whole.num_row_groups)]
        file.unlink()
        with PartWriter(file, "operators", SCHEMAS["operators"]) as writer:
            for table in tables:
                end_ns = table.column("end_time_ns").to_numpy()
                inner = table.column("parent_call_id").is_valid().to_numpy()
                # A pair's inner row comes first: both begin between the pair before and its end.
                of_pair = np.maximum.accumulate(np.where(inner, np.arange(len(inner)), 0))
                before = np.concatenate([[last_ns], end_ns[:-1]])[of_pair]
                start_ns = before + (end_ns[of_pair] - before) * np.where(inner, 2, 1) // 3
                pair = (rows + np.arange(len(inner))) // 2 % ALLOCATIONS_PER_STEP
                place = pair * len(_PATHS) // ALLOCATIONS_PER_STEP
                module = pa.DictionaryArray.from_arrays(pa.array(place.astype(np.int32)), words)
                for name, column in (
                    ("start_time_ns", pa.array(start_ns, pa.int64())),
                    ("module", module.cast(pa.string())),
                ):
                    at = table.column_names.index(name)
                    table = table.set_column(at, SCHEMAS["operators"].field(name), column)
                writer.write(table.cast(SCHEMAS["operators"]))
                last_ns, rows = int(end_ns[-1]), rows + len(end_ns)
    _name_modules(trace_dir)


def _name_modules(trace_dir: Path) -> None:
    """Modules of a stack's frames: those around a layer's part."""
    (file,) = (trace_dir / "stacks").glob("*/*.parquet")
    rows = pq.ParquetFile(file).read().to_pylist()
    for row in rows:
        path = _PATHS[row["stack_id"] % len(_PATHS)].split(".")
        if row["depth"] < len(path) - 2:
            row["module"] = ".".join(path[: len(path) - row["depth"]])
        elif row["depth"] == len(path) - 2:
            row["module"] = "transformer"
    file.unlink()
    with PartWriter(file, "stacks", SCHEMAS["stacks"]) as writer:
        writer.write(pa.Table.from_pylist(rows, schema=SCHEMAS["stacks"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=float, default=10)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="directory for the trace, kept afterwards")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        trace = options.keep or Path(temporary) / "t.memtrace"
        if not trace.exists():
            write_spool(trace, int(options.millions * 1e6))
            print(measure(trace))
            make_training(trace)
            make_calls(trace)
        events = sum(pq.ParquetFile(f).metadata.num_rows for f in trace.glob("events/*/*.parquet"))
        out = Path(temporary) / "t.pftrace"
        argv = [sys.executable, "-m", "memtrace", "export", str(trace), "--to", "perfetto"]
        argv += ["--force", "-o", str(out)]
        walls = []
        for _ in range(options.runs):
            wall_s, cpu_s, peak_mib = run(argv, Path(temporary))
            print(
                f"{wall_s:.2f} s ({cpu_s:.2f} s of CPU) for {events:,} events: "
                f"{events / wall_s / 1e3:,.0f} k/s, peak RSS {peak_mib:,.0f} MiB, "
                f"{out.stat().st_size / events:.1f} bytes an event"
            )
            walls.append(wall_s)
        rate = events / statistics.median(walls)
        print(f"median {rate / 1e3:,.0f} k events/s ({EVENTS_PER_SECOND // 1000} k promised)")


if __name__ == "__main__":
    main()
