"""memtrace sweep, as one types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import memtrace
from memtrace.report.units import size

PROGRAM = """
import os
import sys
import torch

batch = int(sys.argv[1]) if len(sys.argv) > 1 else int(os.environ[os.environ["READS"]])
if batch == 6:
    sys.exit(3)
print("batch is", batch)
model = torch.nn.Linear(256, 256)
with torch.no_grad():
    for _ in range(2):
        model(torch.randn(batch, 256))
if batch == 9:
    import time
    print("waiting", file=sys.stderr, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path


def sweep(folder: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "memtrace", "sweep", *words],
        cwd=folder, capture_output=True, text=True, env=os.environ | environ, check=False,
    )  # fmt: skip


def document(folder: Path, *words: str, **environ: str) -> dict[str, Any]:
    done = sweep(folder, "--json", *words, **environ)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_curve_with_a_run_that_fails(folder: Path) -> None:
    done = sweep(
        folder, "--batch", "4,100,6,200", "--capacity", "2MiB", "program.py", "{batch}"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "batch is" not in done.stdout
    assert "batch is 100" in done.stderr
    names = sorted(path.name for path in (folder / "program.sweep").iterdir())
    assert names == [f"batch={b}.memtrace" for b in (100, 200, 4, 6)]
    assert "exit status 3" in done.stdout
    assert "over 3 runs" in done.stdout
    assert "the largest batch that fits 2.00 MiB (2,097,152 bytes): " in done.stdout
    peak = memtrace.open(folder / "program.sweep" / "batch=200.memtrace").peak("cpu")
    assert size(peak.total_bytes) in done.stdout


def test_the_environment_tells_the_program(folder: Path) -> None:
    found = document(folder, "--batch", "2,1,2", "program.py", READS="MEMTRACE_BATCH")
    assert [run["batch_sizes"] for run in found["runs"]] == [[1], [2]]
    found = document(
        folder, "--batch", "1,2", "--env", "SIZE", "-o", "out", "program.py", READS="SIZE"
    )
    assert [run["batch"] for run in found["runs"]] == [1, 2]
    assert (folder / "out" / "batch=2.memtrace").is_dir()
    (curve,) = found["curves"]
    assert curve["device"] == "cpu"
    assert curve["largest"] is None
    assert curve["fit"]["each_bytes"] > 0
    assert not curve["fit"]["proven"]


def test_options_of_run_and_both_dimensions(folder: Path) -> None:
    code = "import sys, torch; torch.nn.Linear(8, 8)(torch.randn(*map(int, sys.argv[1:]), 8))"
    words = ["--batch", "1,2", "--sequence", "3,4", "-o", "out", "--no-operators", "-c", code]
    found = document(folder, *words, "{batch}", "{sequence}")
    assert [(run["batch"], run["sequence"]) for run in found["runs"]] == [
        (1, 3), (1, 4), (2, 3), (2, 4)
    ]  # fmt: skip
    assert [curve["held"] for curve in found["curves"]] == [{"sequence": 3}, {"sequence": 4}]
    trace = memtrace.open(folder / "out" / "batch=2,sequence=4.memtrace")
    assert json.loads(trace.steps["input_shapes"][0].as_py()) == {"input": [2, 4, 8]}
    assert not trace.process_list[0].row["operators_on"]


def test_nothing_is_overwritten_without_force(folder: Path) -> None:
    words = ["--batch", "1,2", "-o", "out", "program.py", "{batch}"]
    (folder / "out" / "batch=2.memtrace").mkdir(parents=True)
    (folder / "out" / "batch=2.memtrace" / "mine.txt").write_text("mine")
    done = sweep(folder, *words)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "batch=2.memtrace exists" in done.stderr
    assert not (folder / "out" / "batch=1.memtrace").exists()
    done = sweep(folder, "--force", *words)
    assert "is not a memtrace trace: --force does not replace it" in done.stderr
    assert (folder / "out" / "batch=2.memtrace" / "mine.txt").read_text() == "mine"
    (folder / "out" / "batch=2.memtrace" / "mine.txt").unlink()
    (folder / "out" / "batch=2.memtrace").rmdir()
    assert sweep(folder, "--force", *words).returncode == 0
    assert sweep(folder, "--force", *words).returncode == 0


def test_an_interrupt_leaves_what_was_recorded(folder: Path) -> None:
    argv = [sys.executable, "-m", "memtrace", "sweep", "--batch", "1,9,11", "program.py", "{batch}"]
    with subprocess.Popen(
        argv, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as running:  # fmt: skip
        assert running.stderr is not None
        assert any("waiting" in line for line in running.stderr)
        time.sleep(0.2)
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does
        out, err = running.communicate(timeout=100)
    assert running.returncode == 130
    assert "interrupted; what was recorded is in program.sweep" in err
    assert "batch 9: interrupted" in out
    for batch in (1, 9):
        trace = memtrace.open(folder / "program.sweep" / f"batch={batch}.memtrace")
        assert trace.steps["batch_size"].to_pylist() == [batch, batch]
    assert not (folder / "program.sweep" / "batch=11.memtrace").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["program.py"], "what to vary?"),
        (["--batch", "1,x", "program.py"], "--batch 1,x: write whole numbers from 1"),
        (["--batch", "0", "program.py"], "--batch 0: write whole numbers from 1"),
        (["--batch", "1,2"], "what to run?"),
        (["--batch", "1,2", "no.py"], "no such script: no.py"),
        (["--batch", "1,2", "-"], "can be run only once"),
        (["--batch", "1,2", "--env", "sequence=S", "program.py"], "--env sequence=S"),
        (["--batch", "1,2", "--env", "A-B", "program.py"], "--env A-B: write the name"),
        (["--batch", "1,2", "--capacity", "much", "program.py"], "--capacity much: write a size"),
        (["--batch", "1,2", "--capacity", "3%", "program.py"], "--capacity 3%: write a size"),
        (["--batch", "1,2", "--nonsense", "program.py"], "no such option: --nonsense"),
    ],
)
def test_bad_input_is_one_line(folder: Path, words: list[str], line: str) -> None:
    done = sweep(folder, *words)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert line in done.stderr
    assert [path.name for path in folder.iterdir()] == ["program.py"]
