"""Traces whose files were damaged, cut, swapped or deleted, under every command that reads them.

An input passes when each command ends with status 0, or 1 and one line.
"""

from __future__ import annotations

import contextlib
import io
import random
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fuzz.mutations import mutated
from memtrace.cli import main

_COMMANDS = (
    ("summary",), ("summary", "--json"), ("peak", "--by", "module"), ("peak", "--of", "reserved"),
    ("at", "--time", "20us"), ("stages",), ("leaks",), ("fragmentation",), ("oom",),
    ("export", "--force", "-o", "{out}", "--to", "snapshot"),
    ("export", "--force", "-o", "{out}", "--to", "perfetto"),
)  # fmt: skip


def check_one(rng: random.Random, source: Path, folder: Path) -> str:
    """Damages a copy of the trace `source` and runs a few commands on it."""
    trace_dir = folder / "damaged.memtrace"
    shutil.rmtree(trace_dir, ignore_errors=True)
    shutil.copytree(source, trace_dir)
    damage(trace_dir, rng)
    refused = 0
    chosen = rng.sample(_COMMANDS, 2)
    for words in chosen:
        argv = [words[0], str(trace_dir), *words[1:]]
        argv = [word.replace("{out}", str(folder / "out")) for word in argv]
        refused += _run(argv)
    return "refused" if refused == len(chosen) else "read"


def _run(argv: list[str]) -> int:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(argv)
    assert status in (0, 1), (argv, status)
    if status == 1:
        lines = [line for line in err.getvalue().splitlines() if line]
        assert lines, argv
        assert lines[-1].startswith("memtrace: "), (argv, lines)
        assert "Traceback" not in err.getvalue(), (argv, lines)
    return status


def damage(trace_dir: Path, rng: random.Random) -> None:
    """One file of the trace is not what it was."""
    files = sorted(trace_dir.rglob("*.parquet"))
    file, other = rng.choice(files), rng.choice(files)
    kind = rng.randrange(8)
    if kind < 4:
        file.write_bytes(mutated(file.read_bytes(), rng))
    elif kind == 4:
        file.unlink()
    elif kind == 5:
        file.write_bytes(other.read_bytes())
    else:
        _change_table(file, rng)


def _change_table(file: Path, rng: random.Random) -> None:
    """Whole Parquet, wrong content: columns gone, swapped, of another type, or other values."""
    table = pq.read_table(file, partitioning=None)
    names = table.column_names
    first, second = rng.choice(names), rng.choice(names)
    place = names.index(first)
    kind = rng.randrange(5)
    if kind == 0:
        table = table.drop_columns([first])
    elif kind == 1:
        table = table.set_column(place, first, table.column(second))
    elif kind == 2:
        table = table.set_column(place, first, pa.nulls(table.num_rows, table.column(first).type))
    elif kind == 3:
        table = table.slice(0, rng.randrange(table.num_rows + 1))
    else:
        number = rng.choice((-1, 0, 1, 1 << 40, (1 << 62), -(1 << 63), (1 << 63) - 1))
        if pa.types.is_int64(table.column(first).type):
            values = table.column(first).to_pylist()
            if values:
                values[rng.randrange(len(values))] = number
            table = table.set_column(place, first, pa.array(values, pa.int64()))
        else:
            table = table.set_column(
                place, first, pa.array([str(number)] * table.num_rows, pa.string())
            )
    pq.write_table(table, file, row_group_size=max(1, rng.choice((2, 1000))), store_schema=False)
