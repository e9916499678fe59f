"""Memray, coverage and a debugger beside us: each sees what it sees without us, and we see all."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

import memtrace
from hazards.measured_runs import PROGRAM, check_account
from program_runs import main_process, python, recorded

UNHARMED = PROGRAM.parents[1] / "unharmed"
OURS = Path(memtrace.__file__).parent

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed"
)


def allocations_seen_by_memray(results: Path) -> int:
    from memray import FileReader

    total: int = FileReader(results).metadata.total_allocations
    return total


def test_memray_runs_the_program(tmp_path: Path) -> None:
    words = ["-m", "memray", "run", "--quiet", "-o"]
    plain = python(*words, tmp_path / "plain.bin", PROGRAM)
    trace = tmp_path / "t.memtrace"
    shown = recorded(trace, *words, tmp_path / "beside.bin", PROGRAM)
    assert (shown.status, shown) == (0, plain)
    check_account(shown.out, trace)
    alone, beside = (allocations_seen_by_memray(tmp_path / f"{n}.bin") for n in ("plain", "beside"))
    assert beside >= alone


BLOCKS = f"""
import runpy, sys
import memray, memtrace
first, second, way = sys.argv[1:]
sys.argv = [sys.argv[0]]
beside = {{
    "memtrace": lambda: memtrace.record("t.memtrace"), "memray": lambda: memray.Tracker("t.bin")
}}
outer, inner = beside[first](), beside[second]()
outer.__enter__()
inner.__enter__()
runpy.run_path({str(PROGRAM)!r}, run_name="__main__")
if way == "crosswise":  # the first to begin is the first to end
    outer, inner = inner, outer
inner.__exit__(None, None, None)
import torch
torch.ones(5)
outer.__exit__(None, None, None)
"""


@pytest.mark.parametrize("order", ["memtrace memray", "memray memtrace"])
@pytest.mark.parametrize("way", ["nested", "crosswise"])
def test_memray_around_and_inside_a_recorded_block(tmp_path: Path, order: str, way: str) -> None:
    plain = python(PROGRAM)
    shown = python("-c", BLOCKS, *order.split(), way, cwd=tmp_path)
    assert shown == plain
    check_account(shown.out, tmp_path / "t.memtrace")
    assert allocations_seen_by_memray(tmp_path / "t.bin") > 0


def covered(results: Path) -> dict[str, Any]:
    """The lines and branches that coverage saw, a file; those of memtrace itself left out."""
    as_json = results.with_suffix(".json")
    words = ["-m", "coverage", "json", "-q", f"--data-file={results}", "-o", as_json]
    assert python(*words).status == 0
    files: dict[str, Any] = json.loads(as_json.read_text())["files"]
    return {name: seen for name, seen in files.items() if OURS not in Path(name).resolve().parents}


def test_coverage_counts_the_same_lines_and_branches(tmp_path: Path) -> None:
    def words(name: str) -> list[str]:
        data = f"--data-file={tmp_path / name}"
        return ["-m", "coverage", "run", "--branch", data, str(UNHARMED / "exceptions.py")]

    plain = python(*words("plain"))
    trace = tmp_path / "t.memtrace"
    assert recorded(trace, *words("beside")) == plain
    files = covered(tmp_path / "plain")
    assert covered(tmp_path / "beside") == files
    assert len(next(iter(files.values()))["executed_lines"]) > 30
    row = main_process(trace)
    assert (row["lost_total"], row["events"] > 50) == (0, True)


#: Breaks before a model's call, steps into it, through torch's own lines, out, and on to the end.
DEBUGGED = b"b 34\nc\n" + b"s\n" * 25 + b"w\nn\nn\nr\nr\nu\nw\ncl 1\nc\nq\n"


def test_a_debugger_steps_through_the_same_lines(tmp_path: Path) -> None:
    words = ["-m", "pdb", UNHARMED / "exceptions.py"]
    plain = python(*words, input=DEBUGGED)
    trace = tmp_path / "t.memtrace"
    shown = recorded(trace, *words, input=DEBUGGED)
    # pdb cuts long values in the middle: of an address, too.
    seen, expected = (re.sub(rb"x[0-9a-f]{6,}", b"x", one.out) for one in (shown, plain))
    assert (shown.status, seen, shown.err) == (0, expected, plain.err)
    assert plain.out.count(b"_call_impl") > 3
    assert b"--Return--" in plain.out
    assert b"Exit status: at the end" in plain.out
    row = main_process(trace)
    assert (row["lost_total"], row["events"] > 50) == (0, True)
