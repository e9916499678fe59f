"""A torch program does the same under memtrace, bit for bit: results, output, warnings, counts."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet
import pytest

from program_runs import Shown, main_process, plain_environment, python, recorded

PROGRAMS = Path(__file__).resolve().parent.parent / "programs" / "unharmed"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed"
)


def compare(tmp_path: Path, *words: str | Path, env: dict[str, str] | None = None) -> Shown:
    """Both runs show the same, and the recorded one was recorded: what they showed."""
    env = {**plain_environment(), **(env or {})}
    trace = tmp_path / "t.memtrace"
    plain = python(*words, env=env)
    traced = recorded(trace, *words, env=env)
    assert traced == plain
    row = main_process(trace)
    assert row["lost_total"] == 0, row["lost_events"]
    assert row["events"] > 0
    assert row["exit_status"] == plain.status
    return plain


@pytest.mark.parametrize("options", [[], ["--no-operators"], ["--stack-min-bytes", "4096"]])
def test_a_seeded_training_run_is_bitwise_equal(tmp_path: Path, options: list[str]) -> None:
    program = PROGRAMS / "training.py"
    plain = python(program)
    assert plain.status == 0
    assert len(plain.out.splitlines()) == 21
    assert recorded(tmp_path / "t.memtrace", *options, program) == plain


def test_torch_profiler_counts_the_same(tmp_path: Path) -> None:
    # Its own log lines have the time in them.
    silent = "import os; os.dup2(os.open(os.devnull, os.O_WRONLY), 2)"
    source = str(PROGRAMS / "profiler.py")
    shown = compare(tmp_path, "-c", f"{silent}; exec(open({source!r}).read())")
    assert shown.status == 0
    assert b"aten::addmm" in shown.out


def test_compilers_see_the_same_program(tmp_path: Path) -> None:
    # Their caches on disk would make the second run another one.
    env = {"TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1", "PYTHONWARNINGS": "ignore"}
    shown = compare(tmp_path, PROGRAMS / "compiled.py", env=env)
    assert shown.status == 0, shown.err
    assert b'"unique_graphs": 2' in shown.out  # a shape that changed: one more graph, no more


def test_objects_are_what_they_are(tmp_path: Path) -> None:
    assert compare(tmp_path, PROGRAMS / "objects.py").status == 0


def test_classes_of_the_programs_own_are_not_asked(tmp_path: Path) -> None:
    shown = compare(tmp_path, PROGRAMS / "own_classes.py")
    assert (shown.status, shown.err) == (0, b"")


def test_tensors_that_are_more_than_they_look(tmp_path: Path) -> None:
    shown = compare(tmp_path, PROGRAMS / "wrapped_tensors.py")
    assert (shown.status, shown.err) == (0, b"")
    assert shown.out.decode().splitlines() == [
        "torch.float16", "torch.float64 torch.float64",
        "tensor([1., 1.])", "tensor([1., 1.])", "ValueError",
        "True True", "18",
    ]  # fmt: skip


def test_exceptions(tmp_path: Path) -> None:
    shown = compare(tmp_path, PROGRAMS / "exceptions.py")
    assert shown.status == 1
    assert shown.err.count(b"ValueError: in forward") == 3
    assert b"in backward" in shown.err
    assert b"memtrace" not in shown.err


def test_threads_and_tensors_alive_at_the_end(tmp_path: Path) -> None:
    shown = compare(tmp_path, PROGRAMS / "threads.py")
    assert shown.status == 0
    assert b"outlived 150" in shown.out


def test_what_signal_handlers_raise_arrives(tmp_path: Path) -> None:
    shown = compare(tmp_path, PROGRAMS / "signals_anywhere.py")
    assert shown.status == 9
    assert shown.out.decode().splitlines() == ["0 lost"] * 6


def test_one_that_comes_in_a_look_of_an_optimizers_step_arrives(tmp_path: Path) -> None:
    shown = python(PROGRAMS / "signal_in_look.py", str(tmp_path / "t.memtrace"))
    assert (shown.status, shown.out) == (0, b"arrived\n"), shown.err


def test_no_code_runs_of_what_is_looked_at_in_which_one_could_come(tmp_path: Path) -> None:
    trace = tmp_path / "t.memtrace"
    shown = python(PROGRAMS / "signal_in_objects.py", str(trace))
    assert (shown.status, shown.err) == (0, b"")
    # No code of a key or of a wrapper is run, so no signal comes there.
    assert shown.out == b"state: nothing came\nshard: nothing came\n"
    names = pyarrow.parquet.read_table(trace / "names", columns=["name"])
    assert "momentum of param_groups[0].params[0]" in names["name"].to_pylist()


def test_every_interrupt_arrives_at_whatever_moment_of_a_step(tmp_path: Path) -> None:
    shown = compare(tmp_path, PROGRAMS / "interrupts.py", "5")
    assert (shown.status, shown.out, shown.err) == (0, b"0 lost\n[]\n", b"")
    assert main_process(tmp_path / "t.memtrace")["unmatched_frees"] == 0


def test_subinterpreters_are_left_alone(tmp_path: Path) -> None:
    shown = compare(tmp_path, PROGRAMS / "subinterpreters.py")
    assert shown.status == 0, shown.err
    assert shown.out.endswith(b"40 600380\n")
    row = main_process(tmp_path / "t.memtrace")
    assert (row["events"] >= 40, row["unrecorded_children"], row["end_reason"]) == (True, 0, "exit")


def test_forks_beside_threads_that_make_names(tmp_path: Path) -> None:
    program = PROGRAMS / "fork_beside_names.py"
    plain = python(program)
    assert plain.out == b"60 children ended\n"
    assert recorded(tmp_path / "t.memtrace", program) == plain


def test_trace_functions_and_profilers_see_the_program_alone(tmp_path: Path) -> None:
    assert compare(tmp_path, PROGRAMS / "traced.py").out.count(b"[]") == 2


def test_what_a_late_thread_writes_into_stays_mapped(tmp_path: Path) -> None:
    shown = python(PROGRAMS / "late_thread.py", str(tmp_path))
    assert (shown.status, shown.err) == (0, b"")
    assert shown.out == b"late: control.bin handover.bin windows.bin\nleft: control.bin\n"


def test_a_thousand_recordings_in_one_process(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAMS / "cycles.py"), str(tmp_path)],
        capture_output=True, text=True, timeout=280, check=False, env=plain_environment(),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    rows = json.loads(done.stdout)
    descriptors, in_use_kb, mappings = zip(*rows, strict=True)
    assert len(set(descriptors)) == 1, descriptors
    assert set(mappings) == {1}, mappings  # of the last one, for late words
    # Of each recording some 2 KiB stay for good; what it had takes 70.
    grown_kb = in_use_kb[-1] - in_use_kb[len(rows) // 2]
    assert grown_kb < 500 * 4, in_use_kb
    assert os.listdir(tmp_path) == []
