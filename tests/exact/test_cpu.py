"""Exact on the CPU: what the trace says is live is what the program itself finds that it holds.

The programs (tests/programs/cpu) look at all their tensors at many marks and write down each
storage's address and size. Differences are failures, not tolerances.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import memtrace

PROGRAMS = Path(__file__).resolve().parent.parent / "programs" / "cpu"
Row = dict[str, Any]

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed"
)


@dataclass(frozen=True)
class Traced:
    """The tables of one run beside what the program said of itself."""

    allocations: list[Row]
    events: list[Row]
    stages: list[Row]
    names: list[Row]
    stacks: list[Row]
    processes: list[Row]
    account: Any
    worker_accounts: dict[int, Any]

    def of(self, process: str) -> list[Row]:
        return [row for row in self.allocations if row["process"] == process]


def run(program: str, folder: Path, environment: dict[str, str] | None = None) -> Traced:
    trace, account = folder / "t.memtrace", folder / "account.json"
    argv = [sys.executable, "-m", "memtrace", "run", "--quiet", "-o", str(trace)]
    done = subprocess.run(
        [*argv, str(PROGRAMS / f"{program}.py"), str(account)],
        capture_output=True, text=True, timeout=200, check=False, cwd=folder,
        env={**(environment or os.environ), "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    tables = memtrace.open(trace)
    names = ("allocations", "events", "stages", "names", "stacks", "processes")
    workers = {
        int(path.suffix[1:]): json.loads(path.read_text()) for path in folder.glob("account.json.*")
    }
    return Traced(
        *(getattr(tables, name).to_pylist() for name in names),
        json.loads(account.read_text()) if account.exists() else None,
        workers,
    )


def live_at(rows: list[Row], seq: int) -> Counter[tuple[int, int]]:
    """(address, bytes) of what torch's CPU allocator had given out before event `seq`."""
    return Counter(
        (row["address"], row["size_bytes"])
        for row in rows
        if row["device"] == "cpu"
        and row["origin"] != "external"
        and row["alloc_seq"] < seq
        and (row["free_seq"] is None or row["free_seq"] >= seq)
    )


def compare(traced: Traced, process: Row, account: list[Any]) -> int:
    """The trace agrees with the account at each mark; how many marks held anything."""
    rows = traced.of(process["process"])
    stages = sorted(
        (
            row
            for row in traced.stages
            if row["process"] == process["process"] and row["kind"] != "auto"
        ),
        key=lambda row: row["stage_id"],
    )
    assert [row["name"] for row in stages] == [mark["name"] for mark in account]
    totals = {
        row["seq"]: row["allocated_bytes"]
        for row in traced.events
        if row["process"] == process["process"] and row["device"] == "cpu"
    }
    for stage, mark in zip(stages, account, strict=True):
        ours = live_at(rows, stage["start_seq"])
        theirs = Counter((address, size) for address, size in mark["own"])
        assert ours == theirs, (
            stage["name"],
            "ours only",
            ours - theirs,
            "not ours",
            theirs - ours,
        )
        before = [seq for seq in totals if seq < stage["start_seq"]]
        # The running total of `events` is the same figure.
        assert totals[max(before)] == sum(size for _, size in mark["own"]), stage["name"]
    assert process["lost_total"] == 0
    return sum(bool(mark["own"]) for mark in account)


@pytest.mark.parametrize(("program", "marks"), [("training", 13), ("inference", 9), ("threads", 8)])
def test_live_bytes_are_those_of_the_storages_held(
    program: str, marks: int, tmp_path: Path
) -> None:
    if program == "inference":
        pytest.importorskip("transformers")
    traced = run(program, tmp_path)
    (process,) = traced.processes
    assert compare(traced, process, traced.account) >= marks
    assert process["unmatched_frees"] == 0
    addresses = [(row["address"], row["alloc_seq"]) for row in traced.allocations]
    assert len(set(addresses)) == len(addresses)


def test_a_dataloader_and_its_workers(tmp_path: Path) -> None:
    traced = run("dataloader", tmp_path)
    main = next(row for row in traced.processes if row["start_method"] == "main")
    workers = {row["pid"]: row for row in traced.processes if row["start_method"] == "fork"}
    assert compare(traced, main, traced.account) >= 6
    assert len(workers) == 2
    assert workers.keys() == traced.worker_accounts.keys()
    for pid, worker in workers.items():
        assert worker["parent"] == main["process"]
        assert compare(traced, worker, traced.worker_accounts[pid]) == 4


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Traced:
    pytest.importorskip("safetensors")
    return run("foreign_memory", tmp_path_factory.mktemp("foreign"))


@pytest.mark.parametrize(("weight", "memory"), [
    ("loaded", "mapped"), ("safe", "mapped"), ("raw", "mapped"), ("numpy", "host"),
    ("shared", "shared"),
])  # fmt: skip
def test_foreign_weights_are_external_rows(foreign: Traced, weight: str, memory: str) -> None:
    address, size = foreign.account[weight]
    rows = [row for row in foreign.allocations if row["address"] == address
            and row["free_seq"] is None]  # fmt: skip
    assert [row["origin"] for row in rows] == ["external"]
    assert rows[0]["memory"] == memory
    assert rows[0]["device"] == "cpu"
    assert rows[0]["size_bytes"] == size
    if weight == "raw":  # the forward read 10 of 600 rows; the kernel maps ahead in 64 KiB
        assert 10 * 1024 <= rows[0]["resident_bytes"] < size
    elif memory != "host":
        tensor_bytes = 600 * 1024
        assert tensor_bytes <= rows[0]["resident_bytes"] <= size
    assert rows[0]["category"] == ("buffer" if weight == "raw" else "weight")
    assert rows[0]["category_by"] == "identity"


@pytest.mark.parametrize("weight", ["own", "round_trip"])
def test_torchs_own_memory_is_not_external(foreign: Traced, weight: str) -> None:
    address, size = foreign.account[weight]
    rows = [row for row in foreign.allocations if row["address"] == address
            and row["free_seq"] is None]  # fmt: skip
    assert [(row["origin"], row["size_bytes"]) for row in rows] == [("recorded", size)]


def test_weights_have_their_names(foreign: Traced) -> None:
    by_id = {row["allocation_id"]: row for row in foreign.allocations}
    named = {
        row["name"]: (by_id[row["allocation_id"]]["address"], row["kind"], row["shape"])
        for row in foreign.names
        if row["kind"] in ("weight", "buffer")
    }
    assert named == {
        name: (address, "buffer" if name == "raw" else "weight", [600, 256])
        for name, (address, _) in foreign.account.items()
    }
    assert {row["dtype"] for row in foreign.names} == {"float32"}


def test_external_rows_do_not_count_as_allocated(foreign: Traced) -> None:
    last = max(foreign.events, key=lambda row: row["seq"])
    live = live_at(foreign.allocations, last["seq"] + 1)
    assert last["allocated_bytes"] == sum(size * count for (_, size), count in live.items())


def expected_lines(text: str) -> list[tuple[str, str | None, str]]:
    """(operator, module, source) of the forward's allocations, as the program's comments say."""
    said: dict[str, list[tuple[str, str, str]]] = {}
    function = path = ""
    for number, line in enumerate(text.splitlines(), 1):
        if match := re.match(r"class (\w+)", line):
            path = match[1]
        if match := re.match(r"( *)def (\w+)", line):
            function = match[2]
            key = f"{path}.{function}" if match[1] else function
            said[key] = []
        if match := re.search(r"# -> ([^`]+)$", line):
            for part in match[1].split(";"):
                operator, module = part.strip().split(" @ ")
                # Python 3.10 does not keep the qualified name with the code.
                shown = key if sys.version_info >= (3, 11) else function
                source = f"source_lines.py:{number} {shown}"
                said[key].append((operator, module, source))
    gates = [
        (operator, module.format(path=f"gates.{i}"), source)
        for i in range(2)
        for operator, module, source in said["Gate.forward"] + said["squash"]
    ]
    whole = gates + said["Model.forward"] + said["main"]
    return [(op, None if module == "-" else module, source) for op, module, source in whole]


def test_every_allocation_of_a_forward_has_its_operator_module_and_line(tmp_path: Path) -> None:
    traced = run("source_lines", tmp_path)
    (stage,) = (row for row in traced.stages if row["kind"] != "auto")
    rows = sorted(
        (row for row in traced.allocations
         if stage["start_seq"] <= row["alloc_seq"] < stage["end_seq"]),
        key=lambda row: row["alloc_seq"],
    )  # fmt: skip
    ours = [(row["operator"], row["module"], row["source"]) for row in rows]
    expected = expected_lines((PROGRAMS / "source_lines.py").read_text())
    assert len(expected) == 13
    assert ours == expected
    innermost = {
        row["stack_id"]: row for row in traced.stacks if row["file"].endswith("source_lines.py")
        and row["function"] == "<module>"
    }  # fmt: skip
    # Each stack goes down to the script's own first frame.
    assert all(row["stack_id"] in innermost for row in rows)
    names = {row["name"] for row in traced.names}
    assert {"gates.0.scale", "gates.1.inner.weight", "tail.2.bias"} <= names
