"""Forks that C code makes: a child runs as ever, unrecorded; its parent's trace is whole."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet
import pytest

from program_runs import main_process, plain_environment, processes, python, recorded

PROGRAM = Path(__file__).resolve().parents[1] / "programs" / "hazards" / "forks_by_c.py"
# Those that end as Python does; the last one becomes another program.
COUNTED = ["exits", "exits_at_once", "fails", "marks", "forks", "starts_a_python"]

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed"
)


def test_children_that_go_on_in_python(tmp_path: Path) -> None:
    trace = tmp_path / "t.memtrace"
    plain = python(PROGRAM)
    ended = dict(line.split() for line in plain.out.decode().splitlines())
    assert list(ended.values()) == ["7", "8", "1", "9", "10", "11", "12"]
    assert recorded(trace, PROGRAM) == plain
    main = main_process(trace)
    assert main["unrecorded_children"] == len(COUNTED)
    assert (main["complete"], main["exit_status"], main["lost_total"]) == (True, 0, 0)
    # What such a child forks and starts by Python is recorded as ever.
    children = [(row["start_method"], row["exit_status"]) for row in processes(trace)]
    assert sorted(children) == [("fork", 10), ("main", 0), ("subprocess", 11)]
    # Each name of the parent's that was new beside a child is there, with what it allocated.
    names = {f"after_{name}" for name in ended}
    assert names <= functions(trace)


def functions(trace: Path) -> set[str]:
    return set(pyarrow.parquet.read_table(trace / "stacks")["function"].to_pylist())


def test_a_recorded_block_that_a_child_leaves_too(tmp_path: Path) -> None:
    code = (
        "import ctypes, os, sys, memtrace, torch\n"
        "with memtrace.record(sys.argv[1]):\n"
        "    first = torch.ones(1000)\n"
        "    child = ctypes.PyDLL(None).fork()\n"
        "    held = torch.ones(2000 if child else 3000)\n"
        "if child == 0:\n"
        "    with memtrace.record(sys.argv[2]):\n"  # its own
        "        own = torch.ones(4000)\n"
        "    sys.exit(5)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    traces = [tmp_path / "parents.memtrace", tmp_path / "childs.memtrace"]
    shown = python("-c", code, *traces)
    assert (shown.status, shown.out, shown.err) == (0, b"5\n", b"")
    assert [allocated(trace) for trace in traces] == [[4000, 8000], [16000]]


def allocated(trace: Path) -> list[int]:
    sizes = pyarrow.parquet.read_table(trace / "allocations", columns=["size_bytes"])
    return sorted(size for size in sizes["size_bytes"].to_pylist() if size >= 4000)


def test_a_fork_while_a_thread_begins_or_ends_a_recording() -> None:
    # Who holds the lock is not in the child.
    code = (
        "import ctypes, os, sys, threading, memtrace\n"
        "from memtrace import recording\n"
        "held, done = threading.Event(), threading.Event()\n"
        "def begin():\n"
        "    with recording.lock():\n"
        "        held.set(); done.wait()\n"
        "threading.Thread(target=begin, daemon=True).start()\n"
        "held.wait()\n"
        "child = ctypes.PyDLL(None).fork()\n"
        "if child == 0:\n"
        "    with memtrace.paused(): os._exit(6)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False,
        env=plain_environment(),
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "6\n", "")
