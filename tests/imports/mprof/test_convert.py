"""memory_profiler's .dat: what mprof reads of it, the trace holds."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path
from typing import Any

import mprof
import pytest

from memtrace.cli.main import main
from memtrace.imports.importing import import_file
from memtrace.trace import Trace, open_trace

GOLDEN = Path(__file__).parent / "golden"
FILES = [GOLDEN / "functions.dat", GOLDEN / "children.dat"]
MIB = 1 << 20


def imported(file: Path, folder: Path) -> Trace:
    return open_trace(import_file(file, str(folder / f"{file.stem}.memtrace")).path)


def samples(trace: Trace, process: str) -> list[dict[str, Any]]:
    return [row for row in trace.samples.to_pylist() if row["process"] == process]


def origin_ns(trace: Trace, process: str) -> int:
    (found,) = (p for p in trace.process_list if p.key == process)
    return int(found.row["clock_origin_unix_ns"])


def same(row: dict[str, Any], begin_ns: int, mebibytes: float, seconds: float) -> bool:
    off_ns = abs(begin_ns + row["time_ns"] - seconds * 1e9)
    return off_ns < 1000 and abs(row["value_bytes"] - mebibytes * MIB) <= 1  # six decimals


def agrees_with_mprof(file: Path, trace: Trace) -> None:
    theirs = mprof.read_mprofile_file(str(file))
    program = next(p for p in trace.process_list if p.row["parent"] is None)
    begin_ns = origin_ns(trace, program.key)
    ours = [row for row in samples(trace, program.key) if row["reason"] == "period"]
    read = list(zip(theirs["mem_usage"], theirs["timestamp"], strict=True))
    assert len(ours) == len(read)
    for row, (mebibytes, seconds) in zip(ours, read, strict=True):
        assert same(row, begin_ns, mebibytes, seconds)
    calls = sorted(
        (start, name, end) for name, ts in theirs["func_timestamp"].items() for start, end, *_ in ts
    )
    stages = sorted(trace.stages.to_pylist(), key=lambda row: row["start_time_ns"])
    assert [row["name"] for row in stages] == [name for _, name, _ in calls]
    for row, (start, _, end) in zip(stages, calls, strict=True):
        assert abs(begin_ns + row["start_time_ns"] - start * 1e9) < 1000
        assert abs(begin_ns + row["end_time_ns"] - end * 1e9) < 1000
    children = {p.pid: p.key for p in trace.process_list if p.row["parent"] == program.key}
    assert set(children) == {int(pid) for pid in theirs["children"]}
    for pid, read in theirs["children"].items():
        key = children[int(pid)]
        rows = samples(trace, key)
        assert len(rows) == len(read)
        for row, (mebibytes, seconds) in zip(rows, read, strict=True):
            assert same(row, origin_ns(trace, key), mebibytes, seconds)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_real_file_holds_what_mprof_reads(file: Path, tmp_path: Path) -> None:
    agrees_with_mprof(file, imported(file, tmp_path))


def test_a_run_of_mprof(tmp_path: Path) -> None:
    file = tmp_path / "run.dat"
    command = [sys.executable, mprof.__file__, "run", "-T", "0.02", "-o", file, "--python"]
    program = GOLDEN / "functions.py"
    subprocess.run([*command, program], check=True, capture_output=True, cwd=tmp_path)
    trace = imported(file, tmp_path)
    agrees_with_mprof(file, trace)
    assert {row["name"] for row in trace.stages.to_pylist()} >= {"__main__.load", "__main__.work"}


def test_functions_are_stages_that_nest(tmp_path: Path) -> None:
    stages = {row["stage_id"]: row for row in imported(FILES[0], tmp_path).stages.to_pylist()}
    around = {row["name"]: row["parent_id"] for row in stages.values()}
    assert around["__main__.work"] is None
    assert stages[around["__main__.load"]]["name"] == "__main__.work"
    assert stages[around["__main__.step"]]["name"] == "__main__.work"


def test_a_function_without_a_name_is_a_stage(tmp_path: Path) -> None:
    file = tmp_path / "nameless.dat"
    file.write_text(
        "CMDLINE python t.py\nMEM 83.25 1700000000.1234\n"
        "FUNC  60.5 1700000000.2 62.0 1700000001.3 1\n"
    )
    assert [row["name"] for row in imported(file, tmp_path).stages.to_pylist()] == ["(no name)"]


def test_memory_is_whole_pages(tmp_path: Path) -> None:
    rows = imported(FILES[0], tmp_path).samples.to_pylist()
    assert [row["value_bytes"] % 1024 for row in rows if row["reason"] == "period"] == [0] * 18


def test_processes_have_one_clock(tmp_path: Path) -> None:
    trace = imported(FILES[1], tmp_path)
    first, *children = trace.process_list
    assert first.row["parent"] is None, "the program comes first"
    assert [p.row["parent"] for p in children] == [first.key] * 2
    for p in children:
        between = p.row["clock_origin_ns"] - first.row["clock_origin_ns"]
        assert between == p.row["clock_origin_unix_ns"] - first.row["clock_origin_unix_ns"] > 0


def test_stages_shows_the_largest_rss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = imported(FILES[0], tmp_path)
    assert main(["stages", str(trace.path)]) == 0
    out = capsys.readouterr().out
    assert "__main__.step (largest of 3)  165.800 ms     -           -  82.86 MiB" in out
    assert "__main__.load                 286.300 ms     -           -  62.86 MiB" in out


def test_summary_and_report_show_every_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = imported(FILES[1], tmp_path)
    assert main(["summary", str(trace.path)]) == 0
    out = capsys.readouterr().out
    assert "memory_profiler's python children.py, its samples for" in out
    assert "process 0: largest RSS 52.01 MiB" in out
    assert "process 23736: largest RSS 38.95 MiB" in out
    page = tmp_path / "report.html"
    assert main(["report", str(trace.path), "-o", str(page)]) == 0
    text = page.read_text()
    assert "largest RSS 52.01 MiB" in text
    assert "cpu, whole recording: peak at" in text


def test_peak_says_why_there_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = imported(FILES[0], tmp_path)
    capsys.readouterr()
    assert main(["peak", str(trace.path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "no allocations" in line


def test_a_damaged_gzip_file_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.dat.gz"
    file.write_bytes(gzip.compress(FILES[0].read_bytes())[:90] + b"\xff" * 90)
    assert main(["import", str(file), "--format", "mprof"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot be read to its end" in line
