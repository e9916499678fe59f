"""pause(), resume(), paused() and `memtrace run --paused`: what is recorded, and what is not."""

from __future__ import annotations

import importlib.util
import json
import textwrap
from pathlib import Path
from typing import Any

import pytest

import memtrace
from program_runs import main_process, processes, python, recorded, wait_for_finaliser
from program_runs import memtrace as memtrace_command

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed"
)
HEAD = """
import os, subprocess, sys, threading, time
import memtrace
def new(size):  # of so many bytes, all different
    return torch.empty(size, dtype=torch.uint8)
"""


def record(tmp_path: Path, text: str, *options: str) -> Path:
    """The trace of a program that must succeed and say nothing on standard error."""
    path, trace = tmp_path / "program.py", tmp_path / "t.memtrace"
    head = HEAD + ("import torch\n" if "import torch" not in text else "")
    path.write_text(head + textwrap.dedent(text))
    shown = recorded(trace, *options, path, cwd=tmp_path)
    assert (shown.status, shown.err) == (0, b"")
    return trace


def by_size(trace: Path) -> dict[int, dict[str, Any]]:
    return {row["size_bytes"]: row for row in memtrace.open(trace).allocations.to_pylist()}


def intervals(row: dict[str, Any]) -> list[list[int]]:
    found: list[list[int]] = json.loads(row["paused_intervals"])
    return found


def nothing_is_odd(row: dict[str, Any]) -> None:
    assert (row["lost_total"], row["unmatched_frees"]) == (0, 0), row["lost_events"]


def test_nothing_happens_while_nothing_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(
        "import memtrace\n"
        "memtrace.resume(); memtrace.pause(); memtrace.pause()\n"
        "with memtrace.paused() as block: print(block)\n"
        "with memtrace.record('t.memtrace'): print(block)\n"
    )
    shown = python(path, cwd=tmp_path)
    assert (shown.status, shown.out, shown.err) == (0, b"memtrace.paused()\n" * 2, b"")
    assert intervals(main_process(tmp_path / "t.memtrace")) == []


def test_plain_calls_do_not_nest_and_blocks_do(tmp_path: Path) -> None:
    trace = record(tmp_path, """
        import torch
        kept = []
        memtrace.resume()                               # not paused: nothing
        memtrace.pause(); memtrace.pause(); kept.append(new(1001))
        memtrace.resume(); kept.append(new(2001))
        block = memtrace.paused()
        with block:
            with block: kept.append(new(1002))
            kept.append(new(1003))
            memtrace.resume(); kept.append(new(1004))   # the block is open
            memtrace.pause()
        kept.append(new(1005))                          # asked for by pause()
        memtrace.resume(); kept.append(new(2002))
        inside, left = threading.Event(), threading.Event()
        def other():
            with memtrace.paused():
                inside.set(); left.wait()
        thread = threading.Thread(target=other)
        thread.start(); inside.wait()
        try:
            with memtrace.paused(): raise ValueError
        except ValueError: pass
        kept.append(new(1006))                          # the other thread's block is open
        left.set(); thread.join()
        kept.append(new(2003))
    """)  # fmt: skip
    assert [size for size in by_size(trace) if size > 1000] == [2001, 2002, 2003]
    row = main_process(trace)
    nothing_is_odd(row)
    assert len(intervals(row)) == 3
    assert all(start < end for start, end in intervals(row))


def test_the_end_of_recorded_memory_is_recorded_and_threads_go_on(tmp_path: Path) -> None:
    trace = record(tmp_path, """
        import torch
        done = threading.Event()
        def churn(number):
            ring = [None] * 50
            at = 0
            while not done.is_set():
                ring[at % 50] = new(10_000 + number)
                at += 1
        threads = [threading.Thread(target=churn, args=(i,)) for i in range(3)]
        for thread in threads: thread.start()
        kept = new(5001)
        for _ in range(30):
            ended = new(5002)
            memtrace.pause()
            del ended
            time.sleep(0.002)
            memtrace.resume()
            time.sleep(0.002)
        done.set()
        for thread in threads: thread.join()
        last = new(5003)
    """)  # fmt: skip
    rows = memtrace.open(trace).allocations.to_pylist()
    row = main_process(trace)
    nothing_is_odd(row)
    pauses = intervals(row)
    assert len(pauses) == 30
    ended = [found for found in rows if found["size_bytes"] == 5002]
    assert len(ended) == 30
    for found, (start, end) in zip(ended, pauses, strict=True):
        assert found["alloc_time_ns"] < start < found["free_time_ns"] < end
    # All that the threads held is gone, and nothing of theirs is thought to be live for ever.
    live = {found["size_bytes"] for found in rows if found["free_time_ns"] is None}
    assert live >= {5001, 5003}
    assert not live & {10_000, 10_001, 10_002}


def test_operators_are_told_apart_after_pauses_in_the_midst_of_some(tmp_path: Path) -> None:
    trace = record(tmp_path, """
        import torch
        for _ in range(200):  # more often than operators may nest
            with torch.profiler.record_function("scope"):
                memtrace.pause()
            memtrace.resume()
        kept = [torch.zeros(7001, dtype=torch.uint8)]
        with torch.profiler.record_function("outer"):
            memtrace.pause()
            memtrace.resume()
            kept.append(torch.zeros(7002, dtype=torch.uint8))
        kept.append(torch.ones(7003, dtype=torch.uint8))
    """)  # fmt: skip
    row = main_process(trace)
    nothing_is_odd(row)
    assert json.loads(row["lost_events"])["operators_deep"] == 0
    found = by_size(trace)
    tops = [found[size]["top_operator"] for size in (7001, 7002, 7003)]
    assert tops == ["aten::zeros", "aten::zeros", "aten::ones"]


def test_stages_last_over_pauses_and_steps_that_began_before_end_in_them(tmp_path: Path) -> None:
    trace = record(tmp_path, """
        import torch
        class Model(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = torch.nn.Parameter(torch.zeros(3001, dtype=torch.uint8), False)
            def forward(self, given, what=None):
                if what: what()
                return given + 1
        model, given = Model(), new(3002)
        kept = [model(given, memtrace.pause)]  # ends in the pause
        model(given)                           # is of the pause
        memtrace.stage("begun in it")
        kept.append(new(3003))
        with memtrace.step("request"): pass
        memtrace.resume()
        kept.append(new(3004))
        kept.append(model(given))
        def both():
            memtrace.pause(); memtrace.resume(); kept.append(new(3005))
        model(given, both)
        with memtrace.step("request"): kept.append(new(3006))
    """)  # fmt: skip
    nothing_is_odd(main_process(trace))
    opened = memtrace.open(trace)
    steps = opened.steps.to_pylist()
    assert [step["root_module"] or step["name"] for step in steps] == [
        "Model", "Model", "Model", "request",
    ]  # fmt: skip
    ((start, end), _) = intervals(main_process(trace))
    assert steps[0]["start_time_ns"] < start < steps[0]["end_time_ns"] < end
    assert steps[1]["start_time_ns"] > end
    assert all(step["end_time_ns"] for step in steps)
    found = by_size(trace)
    assert 3003 not in found
    assert {found[size]["stage"] for size in (3004, 3005, 3006)} == {"begun in it"}
    assert found[3005]["step"] == steps[2]["step"]
    assert found[3005]["module_class"] == "Model"
    assert found[3006]["step"] == steps[3]["step"]


def test_training_goes_on_as_before(tmp_path: Path) -> None:
    trace = record(tmp_path, """
        import torch
        model = torch.nn.Sequential(torch.nn.Linear(64, 33), torch.nn.ReLU(),
                                    torch.nn.Linear(33, 5))
        optimizer = torch.optim.Adam(model.parameters())
        def step():
            optimizer.zero_grad()
            model(torch.ones(7, 64)).sum().backward()
            optimizer.step()
        memtrace.pause()
        for _ in range(3): step()              # gradients and states are made in the pause
        memtrace.resume()
        for _ in range(2): step()
    """)  # fmt: skip
    row = main_process(trace)
    nothing_is_odd(row)
    ((_, end),) = intervals(row)
    rows = memtrace.open(trace).allocations.to_pylist()
    weights = [found for found in rows if found["category"] == "weight"]
    assert {found["size_bytes"] for found in weights} == {64 * 33 * 4, 33 * 4, 33 * 5 * 4, 20}
    assert {found["origin"] for found in weights} == {"recorded"}
    # States are live since the pause: found, and not thought to have been there before it.
    states = [
        found for found in rows
        if found["category"] == "optimizer_state" and found["size_bytes"] == 64 * 33 * 4
    ]  # fmt: skip
    assert [(found["origin"], found["alloc_time_ns"] >= end) for found in states] == [
        ("preexisting", True)
    ] * 2


def test_the_end_comes_in_a_pause(tmp_path: Path) -> None:
    trace = record(tmp_path, "memtrace.pause()\nkept = new(1001)\n")
    row = main_process(trace)
    assert (row["complete"], row["end_reason"]) == (True, "exit")
    ((start, end),) = intervals(row)
    assert (start > 0, end) == (True, None)
    assert 1001 not in by_size(trace)


def test_a_kill_comes_in_a_pause(tmp_path: Path) -> None:
    path, trace = tmp_path / "program.py", tmp_path / "t.memtrace"
    path.write_text(
        HEAD + "import torch\nkept, ended = new(1001), new(1002)\nmemtrace.pause()\n"
        "del ended\nother = new(1003)\nos.kill(os.getpid(), 9)\n"
    )
    assert recorded(trace, path, cwd=tmp_path).status == -9
    wait_for_finaliser(trace)
    row = main_process(trace)
    nothing_is_odd(row)
    assert not row["complete"]
    assert [end for _, end in intervals(row)] == [None]
    found = by_size(trace)
    assert [size for size in found if size > 1000] == [1001, 1002]
    assert found[1002]["free_time_ns"] > found[1001]["alloc_time_ns"]
    assert found[1001]["free_time_ns"] is None


def test_children_of_a_pause(tmp_path: Path) -> None:
    trace = record(tmp_path, """
        import torch
        kept = []
        def child(text):
            sys.stdout.flush()
            if (pid := os.fork()) == 0:
                exec(text, globals())
                memtrace.record  # still there
                sys.exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        memtrace.pause()
        child("kept.append(new(4001))")                       # as its parent
        child("memtrace.resume(); kept.append(new(4002))")
        memtrace.resume()
        with memtrace.paused():
            child("kept.append(new(4003))")
            inside = threading.Event()
            thread = threading.Thread(target=lambda: (memtrace.paused().__enter__(), inside.set()))
            thread.start(); inside.wait(); thread.join()
        pid = os.fork()                                        # that block is nobody's in a child
        if pid == 0:
            kept.append(new(4004)); sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        code = "import torch; kept = torch.empty(4005, dtype=torch.uint8)"
        subprocess.run([sys.executable, "-c", code], check=True)  # another program
    """)  # fmt: skip
    rows = processes(trace)
    assert len(rows) == 6
    for row in rows:
        nothing_is_odd(row)
    assert [size for size in by_size(trace) if 4000 < size < 5000] == [4002, 4004, 4005]
    (_, first, second, third, fourth, other) = rows
    assert [len(intervals(row)) for row in (first, second, third, fourth, other)] == [1, 1, 1, 0, 0]
    assert intervals(second)[0][1] is not None


def test_a_run_that_begins_paused(tmp_path: Path) -> None:
    trace = record(tmp_path, """
        import torch
        kept = [new(1001)]
        memtrace.resume()
        kept.append(new(2001))
        code = '''if 1:
            import torch, memtrace
            a = torch.empty(1002, dtype=torch.uint8)
            memtrace.resume()
            b = torch.empty(2002, dtype=torch.uint8)
        '''
        subprocess.run([sys.executable, "-c", code], check=True)
        if (pid := os.fork()) == 0:
            kept.append(new(2003)); sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    """, "--paused")  # fmt: skip
    assert [size for size in by_size(trace) if size > 1000] == [2001, 2002, 2003]
    spawned = [row for row in processes(trace) if row["start_method"] != "fork"]
    assert [len(intervals(row)) for row in spawned] == [1, 1]
    assert all(intervals(row)[0][0] < 10**9 for row in spawned)


def test_a_recording_of_a_part_ends_paused_and_the_next_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(HEAD + "import torch\n" + textwrap.dedent("""
        kept = []
        with memtrace.record("a.memtrace"):
            with memtrace.paused():
                kept.append(new(1001))
            kept.append(new(2001))
            memtrace.pause()
            kept.append(new(1002))
        with memtrace.record("b.memtrace"):
            kept.append(new(2002))
        block = memtrace.paused()
        with memtrace.record("c.memtrace"):
            block.__enter__()
        with memtrace.record("d.memtrace"):
            block.__exit__(None, None, None)
            kept.append(new(2003))
    """))  # fmt: skip
    shown = python(path, cwd=tmp_path)
    assert (shown.status, shown.err) == (0, b"")
    for name, sizes, pauses in (("a", [2001], 2), ("b", [2002], 0), ("c", [], 1), ("d", [2003], 0)):
        trace = tmp_path / f"{name}.memtrace"
        row = main_process(trace)
        nothing_is_odd(row)
        found = [size for size in by_size(trace) if size > 1000] if row["events"] else []
        assert (found, len(intervals(row))) == (sizes, pauses), name


def test_a_pause_from_before_torch_is_imported(tmp_path: Path) -> None:
    trace = record(tmp_path, """
        memtrace.pause()
        import torch
        kept = [new(1001)]
        memtrace.resume()
        kept.append(new(2001))
    """)  # fmt: skip
    assert [size for size in by_size(trace) if size > 1000] == [2001]


def test_every_answer_says_that_there_was_a_pause(tmp_path: Path) -> None:
    text = """
        import torch
        kept = new(2001)
        with memtrace.paused(): time.sleep(0.15)
        with memtrace.paused(): time.sleep(0.15)
    """
    trace = record(tmp_path, text)
    said = b"recording was paused for "
    for words in (["summary"], ["peak"], ["stages"], ["at", "--time", "0"]):
        shown = memtrace_command(*words, trace)
        lines = [line for line in shown.out.splitlines() if said in line]
        assert len(lines) == 1, (words, shown.out)
        assert b" ms (2 times): a peak meanwhile is not seen" in lines[0]
    document = json.loads(memtrace_command("summary", trace, "--json").out)
    (process,) = document["processes"]
    assert len(process["paused_intervals_ns"]) == 2
    assert process["paused_peak_bytes"] == {}
    page = tmp_path / "page.html"
    assert memtrace_command("report", trace, "-o", page).status == 0
    assert said in page.read_bytes()
    end = memtrace_command("run", tmp_path / "program.py", cwd=tmp_path)
    assert end.err.count(said) == 1
