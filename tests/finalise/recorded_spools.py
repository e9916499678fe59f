"""Spools that programs have left whose finaliser was killed; and all rows of a finished trace."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from memtrace.schema import SCHEMAS


def finaliser_of(trace: Path) -> int:
    """The process that finalises that trace."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if f"--trace={trace}".encode() in words:
                return int(folder.name)
    raise AssertionError(f"no finaliser of {trace}")


def start(
    trace: Path, program: Path, *words: str, options: tuple[str, ...] = ()
) -> subprocess.Popen[bytes]:
    """A recorded program that has said it is ready."""
    argv = [sys.executable, "-m", "memtrace", "run", "--quiet", *options, "-o", str(trace)]
    process = subprocess.Popen(
        [*argv, str(program), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def leave_spool(trace: Path, program: Path, *words: str) -> Path:
    """The complete spool of that program."""
    process = start(trace, program, *words)
    os.kill(finaliser_of(trace), signal.SIGKILL)
    process.communicate(b"\n")
    assert process.returncode == 0
    (spool,) = (trace / "spool").glob("process=*")
    return spool


def copied(spool: Path, trace: Path) -> Path:
    """The spool as that of a new trace."""
    place = trace / "spool" / spool.name
    shutil.copytree(spool, place)
    return place


def all_rows(trace: Path) -> dict[str, pa.Table]:
    """Every dataset of the trace's only process, in the order of its files."""
    return {
        name: pa.concat_tables(
            pq.read_table(path) for path in sorted((trace / name).glob("process=*/*.parquet"))
        )
        for name in SCHEMAS
    }
