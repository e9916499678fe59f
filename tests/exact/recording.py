"""Runs a program of tests/programs under memtrace and the oracle: simulated runtime, or a GPU."""

from __future__ import annotations

import ast
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import memtrace
import simcuda

TESTS = Path(__file__).resolve().parent.parent
PROGRAMS = TESTS / "programs" / "cuda"
GPU_PROGRAMS = TESTS / "programs" / "gpu"  # too large or too real for the simulated machine


@dataclass(frozen=True)
class Recording:
    """One run: memtrace's trace beside what torch said of the same run."""

    trace: Any
    torch: dict[str, Any]
    stderr: str

    def events(self, device: str) -> list[dict[str, Any]]:
        """The rows of `events` of one device, in order."""
        table = self.trace.events
        rows = table.filter(pc_equal(table["device"], device)).to_pylist()
        return sorted(rows, key=lambda row: row["seq"])


def pc_equal(column: Any, value: str) -> Any:
    import pyarrow.compute as pc

    return pc.equal(column, value)


def program_names() -> list[str]:
    return sorted(path.stem for path in PROGRAMS.glob("*.py") if path.stem != "__init__")


def program_path(program: str) -> Path:
    """Of the programs that run anywhere, or of those for a real GPU."""
    path = PROGRAMS / f"{program}.py"
    return path if path.exists() else GPU_PROGRAMS / f"{program}.py"


def constants(program: str) -> dict[str, Any]:
    """The constants of a program (programs/cuda/README.md), without running it."""
    found: dict[str, Any] = {
        "DEVICES": 1,
        "MEMORY_MB": 2048,
        "SINGLE_THREADED": False,
        "REACTS_TO_OOM": False,
    }
    for node in ast.parse(program_path(program).read_text()).body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)]) if name in found:
                found[name] = ast.literal_eval(node.value)
    return found


def record(
    program: str, settings: str, mode: str, folder: Path, *, real: bool = False
) -> Recording:
    """Records one program under one allocator setting, on a simulated machine or the real one."""
    facts = constants(program)
    machine = simcuda.Machine(devices=facts["DEVICES"], memory_mb=facts["MEMORY_MB"])
    env = {**os.environ} if real else simcuda.environment(machine)
    if settings:
        env["PYTORCH_ALLOC_CONF"] = settings
    out = folder / "oracle.pickle"
    argv = [sys.executable, "-m", "memtrace", "run", "--quiet", "-o", str(folder / "t.memtrace")]
    argv += [str(TESTS / "exact" / "oracle.py"), mode, str(program_path(program)), str(out)]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=240, cwd=folder)
    assert done.returncode == 0, done.stderr[-4000:]
    return Recording(
        memtrace.open(folder / "t.memtrace"), pickle.loads(out.read_bytes()), done.stderr
    )
