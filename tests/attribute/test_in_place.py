"""A finished trace attributed again: whenever that is interrupted, the trace is whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from attributed_program import Program
from memtrace.attribute import in_place
from memtrace.attribute.in_place import attribute_again
from memtrace.attribute.rows import DATASETS
from memtrace.errors import MemtraceError
from memtrace.schema import ATTRIBUTION_VERSION
from memtrace.trace import open_trace


@pytest.fixture
def path(program: Program) -> Path:
    """A trace of an older attribution, in several parts."""
    p = program.process
    p.row["attribution_version"] = 1
    for i in range(12):
        with p.step():
            weight = p.alloc("cpu", 64, category=None)
            p.free(p.alloc("cuda:0", 64, step=i + 1, phase="forward", category=None))
        p.name(weight, f"w{i}", kind="weight")
    return program.write(parts=3)


def files(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


def is_whole(path: Path, key: str) -> dict[str, Any]:
    """Opens it, checks every row that may not change, and returns its row of `processes`."""
    trace = open_trace(path)
    rows = trace.allocations.to_pylist()
    assert [row["allocation_id"] for row in rows] == list(range(1, 25))
    assert [row["size_bytes"] for row in rows] == [64] * 24
    assert len(trace.steps) == 12
    process: dict[str, Any] = trace.processes.to_pylist()[0]
    counts = json.loads(process["dataset_rows"])
    assert counts["allocations"] == 24
    assert counts.get("stages", 0) == (len(trace.stages) if "stages" in counts else 0)
    return process


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_numbers_of_rows_that_are_damaged(program: Program, path: Path, text: str) -> None:
    program.process.row["dataset_rows"] = text
    program.write(parts=3)
    before = files(path)
    with pytest.raises(MemtraceError, match="is damaged: its dataset_rows tells no numbers"):
        attribute_again(path, program.process.key)
    assert files(path) == before


def test_files_are_private_and_nothing_is_left_beside_them(program: Program, path: Path) -> None:
    attribute_again(path, program.process.key)
    assert is_whole(path, program.process.key)["attribution_version"] == ATTRIBUTION_VERSION
    assert {row["category"] for row in program.rows("allocations")} == {"weight", "temporary"}
    assert not list(path.glob(".*"))
    for dataset in (*DATASETS, "processes"):
        for file in (path / dataset).rglob("*.parquet"):
            assert file.stat().st_mode & 0o777 == 0o600
            assert pq.ParquetFile(file).schema_arrow.metadata is None


@pytest.mark.parametrize("renames", range(8))
def test_an_interruption_between_any_two_renames(
    program: Program, path: Path, renames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = program.process.key
    replace = Path.replace
    tried: list[Path] = []

    def some(self: Path, target: Path) -> Path:
        tried.append(target)
        if len(tried) == renames + 1:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", some)
    # allocations in three parts, steps, stages, timeline, and processes before and after.
    with pytest.raises(KeyboardInterrupt):
        attribute_again(path, key)
    monkeypatch.undo()
    version = is_whole(path, key)["attribution_version"]
    assert version == (1 if renames == 0 else ATTRIBUTION_VERSION)
    assert not list(path.glob(".*"))
    attribute_again(path, key)
    assert is_whole(path, key)["attribution_version"] == ATTRIBUTION_VERSION
    again = files(path)
    attribute_again(path, key)
    assert {name for name, data in files(path).items() if again[name] != data} == set()


KILLED = """
import os, signal, sys
from pathlib import Path
from memtrace.attribute.in_place import attribute_again
replace, left = Path.replace, int(sys.argv[3])
def some(self, target):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return replace(self, target)
Path.replace = some
attribute_again(Path(sys.argv[1]), sys.argv[2])
"""


@pytest.mark.parametrize("renames", range(8))
def test_a_killed_attribution_leaves_what_the_next_one_clears(
    program: Program, path: Path, renames: int
) -> None:
    key = program.process.key
    argv = [sys.executable, "-c", textwrap.dedent(KILLED), str(path), key, str(renames)]
    assert subprocess.run(argv, check=False).returncode == -signal.SIGKILL
    assert list(path.glob(".*"))
    assert is_whole(path, key)["attribution_version"] == (1 if renames == 0 else None)
    attribute_again(path, key)
    assert not list(path.glob(".*"))
    assert is_whole(path, key)["attribution_version"] == ATTRIBUTION_VERSION


def test_a_full_disk(program: Program, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(path)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("memtrace.dataset_writer.pq.ParquetWriter.write_table", full)
    with pytest.raises(MemtraceError, match=r"^cannot write .*: No space left on device$"):
        attribute_again(path, program.process.key)
    assert files(path) == before


def test_two_at_once_wait_for_each_other(
    program: Program, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = in_place._write
    at_work: list[int] = []
    most: list[int] = []

    def alone(*arguments: Any) -> dict[str, int]:
        at_work.append(1)
        most.append(len(at_work))
        rows = write(*arguments)
        at_work.pop()
        return rows

    monkeypatch.setattr(in_place, "_write", alone)
    threads = [
        threading.Thread(target=attribute_again, args=(path, program.process.key)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1]
    assert is_whole(path, program.process.key)["attribution_version"] == ATTRIBUTION_VERSION


def test_an_older_trace_does_not_tell_its_numbers_of_rows(program: Program) -> None:
    program.process.alloc("cpu", 8)
    program.process.row["dataset_rows"] = None
    program.attributed()
    assert program.rows("processes")[0]["dataset_rows"] is None


def test_an_older_format(program: Program) -> None:
    program.process.row["format_version"] = 0
    path = program.write()
    with pytest.raises(MemtraceError, match="written in format 0, which has not what the rules"):
        attribute_again(path, program.process.key)


def test_a_folder_that_cannot_be_written(
    program: Program, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(path)
    monkeypatch.setattr(os, "access", lambda folder, _: "steps" not in str(folder))
    with pytest.raises(MemtraceError, match=r"^cannot write .*/steps/.*: permission denied$"):
        attribute_again(path, program.process.key)
    assert files(path) == before
