"""record, stage and label, in a process of their own each: they are about a whole process."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from memtrace import open as memtrace_open
from program_runs import Shown, main_process, processes, python, recorded

HEAVY = (
    "pyarrow", "numpy", "rich", "click", "pandas", "torch", "pathlib", "json", "typing", "re",
    "IPython", "textual", "mlflow", "duckdb", "jinja2", "transformers", "lightning", "starlette",
)  # fmt: skip


def program(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(text))
    return path


def run(tmp_path: Path, text: str) -> Shown:
    shown = python(program(tmp_path, text), cwd=tmp_path)
    assert shown.status == 0, shown.err.decode()
    return shown


def test_import_is_light(tmp_path: Path) -> None:
    shown = run(tmp_path, f"""
        import sys, time
        before = set(sys.modules)
        start = time.perf_counter()
        import memtrace
        print(round(1000 * (time.perf_counter() - start)))
        print(sorted(set(sys.modules) & set({HEAVY!r}) - before))
    """)  # fmt: skip
    milliseconds, heavy = shown.out.decode().splitlines()
    assert heavy == "[]"
    assert int(milliseconds) <= 60


def test_a_watched_program_finds_its_own_modules(tmp_path: Path) -> None:
    # Modules of the standard library that the program's own folder shadows, as plain python has it.
    names = [
        "json",
        "queue",
        "types_of_mine",
        "random",
        "statistics",
        "platform",
        "secrets",
        "copy",
    ]
    for name in names:
        (tmp_path / f"{name}.py").write_text("MINE = True\n")
    path = program(
        tmp_path,
        f"import {', '.join(names)}\n"
        f"print([getattr(m, 'MINE', 0) for m in ({', '.join(names)})])\n",
    )
    assert recorded(tmp_path / "t.memtrace", path) == python(path)


def test_nothing_happens_while_nothing_is_recorded(tmp_path: Path) -> None:
    shown = run(tmp_path, """
        import memtrace
        memtrace.stage("one")
        with memtrace.stage("two") as two:
            print(two)
        print(memtrace.label("anything", "name", category="kv_cache"))
        try: memtrace.label("anything", category="nonsense")
        except memtrace.MemtraceError as error: print(error)
    """)  # fmt: skip
    lines = shown.out.decode().splitlines()
    assert lines[:2] == ["memtrace.stage('two')", "anything"]
    assert lines[2].startswith("no such category: 'nonsense'")


def test_record_twice_in_one_process(tmp_path: Path) -> None:
    run(tmp_path, """
        import os, memtrace
        environ = dict(os.environ)
        for _ in range(2):
            with memtrace.record() as recording:
                assert "MEMTRACE_RECORD" in os.environ
                assert recording.path.endswith(".memtrace")
                recording.start()  # again: nothing
            recording.stop()  # again: nothing
            assert dict(os.environ) == environ
    """)  # fmt: skip
    for name in ("program.memtrace", "program.2.memtrace"):
        row = main_process(tmp_path / name)
        assert (row["complete"], row["end_reason"]) == (True, "stopped")
        assert not (tmp_path / name / "spool").exists()


def test_recordings_do_not_nest(tmp_path: Path) -> None:
    shown = run(tmp_path, """
        import memtrace
        with memtrace.record("outer.memtrace"):
            try:
                with memtrace.record("inner.memtrace"): print("not reached")
            except memtrace.MemtraceError as error:
                print(error)
    """)  # fmt: skip
    (line,) = shown.out.decode().splitlines()
    assert "being recorded already" in line
    assert not (tmp_path / "inner.memtrace").exists()


def test_an_exception_in_the_block_is_the_programs(tmp_path: Path) -> None:
    shown = run(tmp_path, """
        import memtrace
        try:
            with memtrace.record("x.memtrace"): raise ValueError("mine")
        except ValueError as error: print(error)
    """)  # fmt: skip
    assert shown.out == b"mine\n"
    assert main_process(tmp_path / "x.memtrace")["complete"]


def test_children_of_a_recorded_block(tmp_path: Path) -> None:
    run(tmp_path, """
        import os, subprocess, sys, memtrace
        with memtrace.record("x.memtrace"):
            if (pid := os.fork()) == 0: os._exit(0)
            os.waitpid(pid, 0)
            subprocess.run([sys.executable, "-c", "pass"])
        if (pid := os.fork()) == 0: os._exit(0)
        os.waitpid(pid, 0)
        subprocess.run([sys.executable, "-c", "pass"])
    """)  # fmt: skip
    methods = [row["start_method"] for row in processes(tmp_path / "x.memtrace")]
    assert sorted(methods) == ["fork", "main", "subprocess"]


@pytest.mark.parametrize("text", ["import torch", "import torch.nn", "from torch import nn"])
def test_the_program_that_never_imports_torch_says_so(tmp_path: Path, text: str) -> None:
    pytest.importorskip("torch", exc_type=ImportError)
    trace = tmp_path / "t.memtrace"
    recorded(trace, program(tmp_path, "print(1)"))
    assert main_process(trace)["torch_version"] is None
    recorded(trace.with_name("u.memtrace"), program(tmp_path, text))
    assert main_process(trace.with_name("u.memtrace"))["torch_version"] is not None


def test_the_programs_error_goes_on_when_its_trace_cannot_be_finished(tmp_path: Path) -> None:
    shown = run(tmp_path, """
        import memtrace
        try:
            with memtrace.record("d"):
                open("d/allocations", "w").write("x")
                raise ValueError("the program's")
        except ValueError as error:
            print(error)
    """)  # fmt: skip
    assert shown.out == b"the program's\n"
    assert shown.err.count(b"\n") == 1
    assert shown.err.startswith(b"memtrace: ")


def test_a_trace_that_cannot_be_finished_does_not_end_the_program(tmp_path: Path) -> None:
    shown = run(tmp_path, """
        import memtrace
        with memtrace.record("d"):
            open("d/allocations", "w").write("x")
        recording = memtrace.record("e")
        recording.start()
        open("e/allocations", "w").write("x")
        try:
            recording.stop()
        except memtrace.MemtraceError as error:
            print("goes on:", error)
    """)  # fmt: skip
    assert shown.out.startswith(b"goes on: ")
    (line,) = shown.err.splitlines()
    assert line.startswith(b"memtrace: ")


@pytest.mark.parametrize("begin", ['memtrace.stage("")', 'with memtrace.stage(""): torch.ones(3)'])
def test_a_stage_whose_name_is_empty(tmp_path: Path, begin: str) -> None:
    pytest.importorskip("torch", exc_type=ImportError)
    run(tmp_path, f"""
        import torch
        import memtrace
        with memtrace.record("t.memtrace"):
            {begin}
            torch.ones(3)
    """)  # fmt: skip
    trace = memtrace_open(tmp_path / "t.memtrace")
    assert trace.stages["name"].to_pylist() == ["(no name)"]
    assert trace.allocations["stage"].to_pylist()[0] == "(no name)"


def test_record_in_a_program_that_is_recorded_as_a_whole(tmp_path: Path) -> None:
    text = """
        import memtrace
        with memtrace.record("inner"):
            print("in it")
        print("after it")
    """
    trace = tmp_path / "t.memtrace"
    shown = recorded(trace, program(tmp_path, text), cwd=tmp_path)
    assert (shown.status, shown.out) == (0, b"in it\nafter it\n")
    assert shown.err.count(b"\n") == 1
    assert b"`memtrace run` records all of it already" in shown.err
    assert not (tmp_path / "inner").exists()


def test_record_counts_the_children_that_cannot_be_recorded(tmp_path: Path) -> None:
    run(tmp_path, """
        import subprocess, sys
        import memtrace
        with memtrace.record("t.memtrace"):
            subprocess.run([sys.executable, "-S", "-c", ""])
            subprocess.run([sys.executable, "-c", ""], env={})
            subprocess.run([sys.executable, "-c", ""])
    """)  # fmt: skip
    rows = processes(tmp_path / "t.memtrace")
    assert [row["start_method"] for row in rows] == ["main", "subprocess"]
    assert main_process(tmp_path / "t.memtrace")["unrecorded_children"] == 2


def test_record_that_is_never_stopped_and_children_of_a_block_end_in_order(tmp_path: Path) -> None:
    run(tmp_path, """
        import os
        import memtrace
        with memtrace.record("block"):
            child = os.fork()
            if child == 0:
                os._exit(5)
            os.waitpid(child, 0)
        memtrace.record("open").start()
    """)  # fmt: skip
    ends = {row["start_method"]: row for row in processes(tmp_path / "block")}
    assert (ends["fork"]["end_reason"], ends["fork"]["exit_status"]) == ("os._exit", 5)
    (left,) = memtrace_open(tmp_path / "open").processes.to_pylist()
    assert (left["end_reason"], left["complete"]) == ("exit", True)


def test_what_the_block_does_to_the_environment_stays(tmp_path: Path) -> None:
    shown = run(tmp_path, """
        import os
        import memtrace
        os.environ["PYTHONPATH"] = "/before"
        with memtrace.record("t.memtrace"):
            assert os.environ["PYTHONPATH"].endswith(":/before")
            os.environ["PYTHONPATH"] += ":/within"
        print(os.environ["PYTHONPATH"], *(name for name in os.environ if "MEMTRACE" in name))
        del os.environ["PYTHONPATH"]
        with memtrace.record("u.memtrace"):
            pass
        print("PYTHONPATH" in os.environ)
    """)  # fmt: skip
    assert shown.out == b"/before:/within\nFalse\n"


def test_a_torch_that_was_imported_unseen_or_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("class Tensor: pass\n")
    past_us = """
        import sys
        from importlib.machinery import PathFinder
        class First:
            find_spec = staticmethod(PathFinder.find_spec)
        sys.meta_path.insert(0, First)
        import torch
    """
    recorded(tmp_path / "past.memtrace", program(tmp_path, past_us), cwd=tmp_path)
    row = main_process(tmp_path / "past.memtrace")
    assert (row["torch_seen"], row["hook_error"]) == (True, "torch was imported unseen by memtrace")
    seen = recorded(tmp_path / "own.memtrace", program(tmp_path, "import torch"), cwd=tmp_path)
    assert b"is not PyTorch" in seen.err
    assert seen.err.count(b"\n") == 1


def test_a_recording_that_ended_before_torch_was_there_is_not_in_the_way(tmp_path: Path) -> None:
    shown = run(tmp_path, """
        import memtrace
        with memtrace.record("before.memtrace"):
            pass
        import torch
        with memtrace.record("after.memtrace"):
            kept = torch.empty(1000)
    """)  # fmt: skip
    assert shown.err == b""
    assert memtrace_open(tmp_path / "after.memtrace").peak("cpu").total_bytes == 4000
