"""What torch.compile's generated code allocates is shown at the program's own lines."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from program_runs import memtrace, plain_environment, wait_for_finaliser

pytest.importorskip("torch", exc_type=ImportError)

PROGRAM = Path(__file__).parent.parent / "programs" / "compiled_regions.py"
LINES = PROGRAM.read_text().splitlines()


def line_of(text: str) -> int:
    """The number of the one line of the program that holds this text."""
    (number,) = [n for n, line in enumerate(LINES, 1) if text in line]
    return number


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """Datasets of the program, compiled by Inductor."""
    folder = tmp_path_factory.mktemp("compiled")
    # A cache of its own: Inductor's would know the lines of whoever compiled the same graph first.
    environment = {**plain_environment(), "TORCHINDUCTOR_CACHE_DIR": str(folder / "cache")}
    words = ("run", "--quiet", "-o", folder / "t.memtrace", PROGRAM)
    shown = memtrace(*words, cwd=folder, env=environment)
    assert shown.status == 0, shown.err
    wait_for_finaliser(folder / "t.memtrace")
    tables = {}
    for name in ("allocations", "names", "stacks"):
        parts = sorted((folder / "t.memtrace").glob(f"{name}/*/*.parquet"))
        tables[name] = [r for p in parts for r in pq.read_table(p, partitioning=None).to_pylist()]
    return tables


def generated(
    trace: dict[str, list[dict[str, Any]]], stage: str, *, least_bytes: int = 1024
) -> list[dict[str, Any]]:
    """What generated code allocated in a stage."""
    innermost = {row["stack_id"]: row["file"] for row in trace["stacks"] if row["depth"] == 0}
    return [
        row
        for row in trace["allocations"]
        if row["stage"] == stage
        and row["size_bytes"] >= least_bytes
        and re.search(r"/c[a-z0-9]{50,}\.py$", innermost.get(row["stack_id"]) or "")
    ]


def test_each_buffer_is_shown_at_the_line_whose_work_it_holds(
    trace: dict[str, list[dict[str, Any]]],
) -> None:
    rows = generated(trace, "looked at")
    expected = [
        (4 * 128 * 256, f"compiled_regions.py:{line_of('self.first(x)')} forward"),
        (4 * 128 * 64, f"compiled_regions.py:{line_of('self.second(h)')} forward"),
    ]
    assert [(row["size_bytes"], row["source"]) for row in rows] == expected


def test_a_stack_stands_for_the_same_line(trace: dict[str, list[dict[str, Any]]]) -> None:
    sources = {row["stack_id"]: row["source"] for row in trace["stacks"] if row["depth"] == 0}
    rows = generated(trace, "looked at")
    assert [sources[row["stack_id"]] for row in rows] == [row["source"] for row in rows]


def test_the_operator_is_the_region_and_the_module_the_root(
    trace: dict[str, list[dict[str, Any]]],
) -> None:
    rows = generated(trace, "looked at")
    assert {row["operator"] for row in rows} == {"Torch-Compiled Region: 0/0"}
    assert {(row["module"], row["module_class"]) for row in rows} == {("Block", "Block")}
    # A compiled function has no module.
    (row,) = generated(trace, "function")
    assert row["source"] == f"compiled_regions.py:{line_of('torch.relu(x + 1)')} function"
    assert (row["module"], row["operator"]) == (None, "Torch-Compiled Region: 1/0")


def test_the_backward_is_shown_at_lines_of_the_forward(
    trace: dict[str, list[dict[str, Any]]],
) -> None:
    rows = generated(trace, "trained")
    forward = [row for row in rows if row["operator"] == "CompiledFunction"]
    backward = [row for row in rows if row["operator"] == "CompiledFunctionBackward"]
    assert forward
    assert backward
    assert len(forward) + len(backward) == len(rows)
    lines = {line_of("self.first(x)"), line_of("torch.sigmoid(h)"), line_of("self.second(h)")}
    assert {row["source"] for row in rows} <= {f"compiled_regions.py:{n} forward" for n in lines}


def test_names_have_no_trace_of_the_wrapper(trace: dict[str, list[dict[str, Any]]]) -> None:
    names = {row["name"] for row in trace["names"] if row["kind"] == "weight"}
    assert names == {"first.weight", "first.bias", "second.weight", "second.bias"}


KILLED = """
import os, signal
import torch

def function(x):
    x = torch.relu(x + 1)
    return torch.sigmoid(x @ x.T) * 2

class Model(torch.nn.Module):
    def forward(self, x):
        return function(x)

{name} = {made}
compiled = torch.compile({name}, dynamic=False)
kept = []
with torch.no_grad():
    for rows in (64,) * 3 + (512,):
        kept.append(compiled(torch.randn(rows, 300)))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("made", ["Model()", "function"])
def test_a_program_that_is_killed_in_the_first_call_of_a_graph(tmp_path: Path, made: str) -> None:
    program = tmp_path / "killed.py"
    program.write_text(KILLED.format(name="made", made=made))
    line = 1 + next(n for n, text in enumerate(KILLED.splitlines()) if "x @ x.T" in text)
    environment = {**plain_environment(), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    out = tmp_path / "t.memtrace"
    words = ("run", "--quiet", "-o", out, program)
    shown = memtrace(*words, cwd=tmp_path, env=environment)
    assert shown.status == -signal.SIGKILL, shown.err
    wait_for_finaliser(out)
    sources = [
        row["source"]
        for part in out.glob("allocations/*/*.parquet")
        for row in pq.read_table(part, partitioning=None).to_pylist()
        if row["size_bytes"] == 4 * 512 * 512
    ]
    assert sources
    assert set(sources) == {f"killed.py:{line} function"}


def test_lines_of_another_program_are_not_taken(tmp_path: Path) -> None:
    # Inductor's cache, filled by a program that has the same graph in another file.
    other = tmp_path / "other.py"
    other.write_text("# moved down\n" * 5 + PROGRAM.read_text())
    environment = {**plain_environment(), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    for name, program in (("first", other), ("second", PROGRAM)):
        out = tmp_path / f"{name}.memtrace"
        shown = memtrace("run", "--quiet", "-o", out, program, cwd=tmp_path, env=environment)
        assert shown.status == 0, shown.err
        wait_for_finaliser(out)
    (part,) = (tmp_path / "second.memtrace").glob("allocations/*/*.parquet")
    rows = pq.read_table(part, partitioning=None).to_pylist()
    sources = {row["source"].split()[0] for row in rows if row["stage"] == "looked at"}
    assert sources == {f"compiled_regions.py:{line_of('def forward')}"}
