"""What torch.profiler recorded of a program is, imported, what memtrace recorded of it."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import simcuda
from memtrace.cli.main import main
from memtrace.imports.importing import import_file
from memtrace.trace import Trace, open_trace
from program_runs import plain_environment

PROGRAM = Path(__file__).parent / "profiled.py"
# What does not depend on how a tool names the lines and modules of a program.
SAME = ("operator", "top_operator", "forward_operator", "phase", "step")


class Pair:
    """A program's profile, imported, beside its recording."""

    def __init__(self, folder: Path, argv: list[str], env: dict[str, str]) -> None:
        subprocess.run(argv, env=env, check=True, capture_output=True)
        self.file = folder / "profile.json"
        self.imported = open_trace(import_file(self.file, str(folder / "i.memtrace")).path)
        self.recorded = open_trace(folder / "recorded.memtrace")
        self.counters: dict[str, int] = json.loads((folder / "counters.json").read_text())


@pytest.fixture(scope="module")
def cpu(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("cpu")
    return Pair(folder, [sys.executable, str(PROGRAM), str(folder), "cpu"], plain_environment())


@pytest.fixture(scope="module")
def cuda(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("cuda")
    argv, env = simcuda.python_command(str(PROGRAM), memory_mb=1024)
    return Pair(folder, [*argv, str(folder), "cuda"], {**env, "TMPDIR": os.fspath(folder)})


def made(trace: Trace, device: str) -> list[dict[str, Any]]:
    rows = [row for row in trace.allocations.to_pylist() if row["origin"] == "recorded"]
    rows = [row for row in rows if row["device"] == device]
    return sorted(rows, key=lambda row: row["alloc_seq"])


def file_events(file: Path) -> list[dict[str, Any]]:
    found = json.loads(file.read_text())["traceEvents"]
    return sorted((e for e in found if e["name"] == "[memory]"), key=lambda e: e["ts"])


def agree(pair: Pair, device: str) -> None:
    ours, theirs = made(pair.recorded, device), made(pair.imported, device)
    assert len(ours) == len(theirs) > 50
    for column in ("block_bytes", *SAME):
        assert [row[column] for row in theirs] == [row[column] for row in ours], column
    assert {row["phase"] for row in theirs} == {"forward", "backward", "optimizer", "other"}
    lived = [[row["free_seq"] is None for row in rows] for rows in (ours, theirs)]
    assert lived[0] == lived[1]


def test_each_allocation_is_what_memtrace_recorded(cpu: Pair) -> None:
    agree(cpu, "cpu")


def test_the_peak_is_the_profilers_to_the_byte(cpu: Pair) -> None:
    totals = [event["args"]["Total Allocated"] for event in file_events(cpu.file)]
    assert cpu.imported.peak("cpu").total_bytes == max(totals)
    ours = [row["allocated_bytes"] for row in cpu.imported.events.to_pylist()]
    assert ours == totals


def test_a_line_is_of_the_function_that_memtrace_names(cpu: Pair) -> None:
    def functions(trace: Trace) -> list[str]:
        sources = [row["source"] for row in made(trace, "cpu")]
        return [source.split()[0].split(":")[0] + source.split(".")[-1][-9:] for source in sources]

    ours, theirs = functions(cpu.recorded), functions(cpu.imported)
    assert [s[:11] for s in ours] == [s[:11] for s in theirs] == ["profiled.py"] * len(ours)


def test_modules_are_called_by_their_place_in_the_model(cpu: Pair) -> None:
    names = {"first": "Net_0.Linear_0", "second": "Net_0.Linear_1", "Net": "Net_0"}
    ours = [row["module"] for row in made(cpu.recorded, "cpu")]
    theirs = [row["module"] for row in made(cpu.imported, "cpu")]
    assert {row for row in theirs if row} == set(names.values())
    inside = [i for i, row in enumerate(theirs) if row]
    assert [names[ours[i]] for i in inside] == [theirs[i] for i in inside]


def test_steps_backward_passes_and_blocks(cpu: Pair) -> None:
    def listed(trace: Trace) -> list[Any]:
        steps = [(row["kind"], row["root_module"]) for row in trace.steps.to_pylist()]
        marks = [row["kind"] for row in trace.marks.to_pylist()]
        kept = ("backward_begin", "backward_end", "optimizer_begin", "optimizer_end")
        return [steps, [kind for kind in marks if kind in kept]]

    assert listed(cpu.imported) == listed(cpu.recorded)
    assert listed(cpu.imported)[0] == [("training", "Net")] * 3
    stages = [row["name"] for row in cpu.imported.stages.to_pylist() if row["kind"] == "scope"]
    assert stages == ["one step"] * 3


def test_every_command_answers(cpu: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(cpu.imported.path)
    for command in ("summary", "peak", "tree", "stages", "leaks"):
        assert main([command, path]) == 0, command
    assert main(["peak", path, "--by", "source"]) == 0
    out = capsys.readouterr().out
    assert "the Chrome trace profile.json" in out
    assert "profiled.py:31 train" in out


def test_compressed_and_of_a_scheduled_handler(tmp_path: Path, cpu: Pair) -> None:
    packed = tmp_path / "host_1.17.pt.trace.json.gz"
    packed.write_bytes(gzip.compress(cpu.file.read_bytes()))
    trace = open_trace(import_file(packed, str(tmp_path / "t.memtrace")).path)
    assert trace.events.equals(cpu.imported.events)


def test_without_stacks_the_totals_and_operators_stay(tmp_path: Path, cpu: Pair) -> None:
    value = json.loads(cpu.file.read_text())
    kept = [e for e in value["traceEvents"] if e.get("cat") != "python_function"]
    path = tmp_path / "bare.json"
    path.write_text(json.dumps({**value, "traceEvents": kept}))
    made_of = import_file(path, str(tmp_path / "t.memtrace"))
    assert "lacks Python lines and modules (with_stack=True)" in made_of.lacks[0]
    trace = open_trace(made_of.path)
    columns = ("operator", "top_operator", "forward_operator")
    for ours, theirs in zip(made(trace, "cpu"), made(cpu.imported, "cpu"), strict=True):
        assert [ours[name] for name in columns] == [theirs[name] for name in columns]
        assert (ours["source"], ours["module"]) == (None, None)


def test_a_file_without_memory_says_what_to_do(
    tmp_path: Path, cpu: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    value = json.loads(cpu.file.read_text())
    kept = [e for e in value["traceEvents"] if e["name"] != "[memory]"]
    path = tmp_path / "bare.json"
    path.write_text(json.dumps({"traceEvents": kept}))
    assert main(["import", str(path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "profile_memory=True" in line


@pytest.mark.cuda_sim
def test_on_cuda_each_allocation_is_what_memtrace_recorded(cuda: Pair) -> None:
    agree(cuda, "cuda:0")


@pytest.mark.cuda_sim
def test_on_cuda_the_peak_is_torchs_to_the_byte(cuda: Pair) -> None:
    trace, counters = cuda.imported, cuda.counters
    assert trace.peak("cuda:0").total_bytes == counters["peak"]
    assert trace.peak("cuda:0", "reserved").total_bytes == counters["reserved"]
    before = [r for r in trace.allocations.to_pylist() if r["origin"] == "preexisting"]
    assert sum(r["size_bytes"] for r in before if r["device"] == "cuda:0") == counters["before"]
    (process,) = trace.process_list
    assert process.row["reconciled"] is True
    rows = [row for row in trace.events.to_pylist() if row["device"] == "cuda:0"]
    rows = [row for row in rows if row["action"] != "preexisting"]
    told = [e["args"] for e in file_events(cuda.file) if e["args"]["Device Type"] == 1]
    assert [row["allocated_bytes"] for row in rows] == [args["Total Allocated"] for args in told]
    assert [row["reserved_bytes"] for row in rows] == [args["Total Reserved"] for args in told]
