"""What is no trace, or not a whole one, given to every command: one line, nothing lost."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from memtrace.cli.main import main
from memtrace.schema import FORMAT_VERSION
from spool_writer import SpoolWriter
from trace_builder import TraceBuilder, serving_trace

COMMANDS: dict[str, list[str]] = {
    "summary": ["summary"],
    "peak": ["peak"],
    "at": ["at", "--time", "0"],
    "tree": ["tree"],
    "flamegraph": ["flamegraph", "-o", "made.html"],
    "diff": ["diff"],
    "report": ["report", "-o", "made.html"],
    "stages": ["stages"],
    "leaks": ["leaks"],
    "fragmentation": ["fragmentation"],
    "oom": ["oom"],
    "fit": ["fit"],
    "replay": ["replay"],
    "export": ["export", "--to", "perfetto", "-o", "made.pf"],
    "recover": ["recover"],
    "attribute": ["attribute"],
}
Refused = Callable[..., str]


@pytest.fixture(params=COMMANDS)
def refused(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Refused:
    """Runs one command on a path: its line. What lies there is as before, and nothing was made."""
    monkeypatch.chdir(tmp_path)

    def run(path: Path) -> str:
        before = contents(tmp_path)
        paths = [str(path)] * (2 if request.param == "diff" else 1)
        assert main([*COMMANDS[request.param], *paths]) == 1
        out, err = capfd.readouterr()
        assert out == ""
        (line,) = err.splitlines()
        assert line.startswith("memtrace: ")
        assert contents(tmp_path) == before
        return line

    return run


def contents(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def test_nothing_there(refused: Refused, tmp_path: Path) -> None:
    assert "no such trace" in refused(tmp_path / "absent")


def test_a_file(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "x.memtrace").write_text("text")
    assert "is a file; a trace is a directory" in refused(tmp_path / "x.memtrace")


def test_an_empty_directory(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    assert "is not a memtrace trace" in refused(tmp_path / "x")


def test_a_directory_of_somebody_else(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "x" / "events").mkdir(parents=True)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "x" / "events" / "part.parquet")
    assert "is not a memtrace trace" in refused(tmp_path / "x")


@pytest.mark.parametrize("dataset", ["allocations", "events", "processes"])
def test_a_truncated_dataset(refused: Refused, tmp_path: Path, dataset: str) -> None:
    path = serving_trace(tmp_path / "x.memtrace")
    file = max(path.glob(f"{dataset}/*/*.parquet"))
    os.truncate(file, file.stat().st_size * 2 // 3)
    assert "is truncated or damaged" in refused(path)


def test_a_newer_format(refused: Refused, tmp_path: Path) -> None:
    builder = TraceBuilder(tmp_path / "x.memtrace")
    builder.process(format_version=FORMAT_VERSION + 1)
    line = refused(builder.write())
    assert f"written in format {FORMAT_VERSION + 1}" in line
    assert f"up to {FORMAT_VERSION}" in line


def spool(trace_dir: Path) -> Path:
    writer = SpoolWriter(trace_dir)
    writer.process(host="h")
    writer.log().alloc(10, 0x1000, 64)
    return writer.finish()


def test_a_spool_of_a_newer_format(refused: Refused, tmp_path: Path) -> None:
    control = spool(tmp_path / "x.memtrace") / "control.bin"
    data = bytearray(control.read_bytes())
    struct.pack_into("<I", data, 8, 99)
    control.write_bytes(bytes(data))
    assert "spool version 99" in refused(tmp_path / "x.memtrace")


def test_a_spool_without_its_head(refused: Refused, tmp_path: Path) -> None:
    control = spool(tmp_path / "x.memtrace") / "control.bin"
    os.truncate(control, 20)
    assert str(control.parent) in refused(tmp_path / "x.memtrace")


def test_a_truncated_spool_is_read_as_far_as_it_goes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    writer = SpoolWriter(tmp_path / "x.memtrace", chunk_bytes=64 * 9)
    writer.process(host="h")
    log = writer.log()
    for i in range(100):
        log.alloc(10 + i, 0x1000 * (1 + i), 64)
    records = writer.finish() / "records.bin"
    os.truncate(records, records.stat().st_size // 2)
    assert main(["summary", str(tmp_path / "x.memtrace")]) == 0
    out, err = capfd.readouterr()
    assert "figures are bounds" in out
    assert "Traceback" not in err
    assert 20 < pq.read_table(tmp_path / "x.memtrace" / "events").num_rows < 80


@pytest.mark.skipif(os.getuid() != 0, reason="mounting needs root")
def test_a_disk_without_room_for_the_tables(refused: Refused, tmp_path: Path) -> None:
    made = tmp_path.parent / f"{tmp_path.name}-made" / "x.memtrace"
    log_of = SpoolWriter(made)
    log_of.process(host="h")
    log = log_of.log()
    for i in range(2000):
        log.alloc(10 + i, 0x1000 * (1 + i), 64)
    log_of.finish()
    disk = tmp_path / "disk"
    disk.mkdir()
    kib = 8 + sum(-(-file.stat().st_size // 4096) * 4 for file in made.rglob("*") if file.is_file())
    argv = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "none", str(disk)]
    if subprocess.run(argv, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        shutil.copytree(made, disk / "x.memtrace")
        line = refused(disk / "x.memtrace")
        assert "No space left on device; the recording is kept in" in line
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
