"""Stages as a trace tells them, of programs in processes of their own."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest

from program_runs import python

TAKE = """
    import torch
    kept = []
    def take(size):
        kept.append(torch.empty(size, dtype=torch.uint8))
"""


def table(trace: Path, dataset: str) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = []
    for part in sorted(trace.glob(f"{dataset}/*/*.parquet")):
        rows += pq.read_table(part, partitioning=None).to_pylist()
    return rows


def record(tmp_path: Path, text: str, *, setup: str = "") -> Path:
    """The trace of a program of which `text` is recorded."""
    path = tmp_path / "program.py"
    path.write_text(
        f"import memtrace\n{textwrap.dedent(setup)}\nwith memtrace.record('x.memtrace'):\n"
        + textwrap.indent(textwrap.dedent(text), "    ")
    )
    shown = python(path, cwd=tmp_path)
    assert shown.status == 0, shown.err.decode()
    return tmp_path / "x.memtrace"


def stages(trace: Path) -> dict[str, dict[str, Any]]:
    """The rows by name; `parent` is a name."""
    rows = table(trace, "stages")
    name_of = {row["stage_id"]: row["name"] for row in rows}
    assert len(name_of) == len(rows), "a stage has one row"
    by_name = {row["name"]: {**row, "parent": name_of.get(row["parent_id"])} for row in rows}
    assert len(by_name) == len(rows), "the names of these programs are unique"
    return by_name


def stages_by_size(tmp_path: Path, text: str) -> dict[int, str | None]:
    """The stage of each allocation that the program take()s."""
    pytest.importorskip("torch", exc_type=ImportError)
    rows = table(record(tmp_path, text, setup=TAKE), "allocations")
    return {row["size_bytes"]: row["stage"] for row in rows}


def test_stages_nest(tmp_path: Path) -> None:
    rows = stages(record(tmp_path, """
        import threading
        memtrace.stage("a")
        memtrace.stage("b")
        with memtrace.stage("c"):
            memtrace.stage("d")
            memtrace.stage("e")
            with memtrace.stage("f"): pass
        memtrace.stage("g")
        def other():
            with memtrace.stage("h"): memtrace.stage("i")
        thread = threading.Thread(target=other); thread.start(); thread.join()
        try:
            with memtrace.stage("j"): raise ValueError
        except ValueError: pass
        kept = memtrace.stage("kept, and used later")
        memtrace.stage("k\\udc80")
        with kept: pass
    """))  # fmt: skip
    assert {name: row["parent"] for name, row in rows.items()} == {
        "a": None, "b": None, "c": "b", "d": "c", "e": "c", "f": "e", "g": None, "h": "g",
        "i": "h", "j": "g", "k?": None, "kept, and used later": "k?",
    }  # fmt: skip
    blocks = {"c", "f", "h", "j", "kept, and used later"}
    assert {name for name, row in rows.items() if row["kind"] == "scope"} == blocks
    ends = {name: row["end_time_ns"] for name, row in rows.items()}
    assert ends["a"] <= rows["b"]["start_time_ns"]
    assert ends["d"] <= rows["e"]["start_time_ns"] <= ends["e"] <= ends["c"]
    assert ends["b"] <= rows["g"]["start_time_ns"] <= rows["j"]["end_time_ns"] <= ends["g"]
    assert {name for name, end in ends.items() if end is None} == {"k?"}
    threads = {name: row["thread_id"] for name, row in rows.items()}
    assert {threads[name] for name in ("a", "b", "g", "k?")} == {None}, "of the whole process"
    assert {threads[name] for name in ("c", "d", "e", "f", "j")} == {1}, "of the main thread"
    assert threads["h"] == threads["i"] == 2


def test_the_host_is_sampled_at_stage_marks_and_at_the_end(tmp_path: Path) -> None:
    trace = record(
        tmp_path,
        """
        memtrace.stage("before")
        kept = bytearray(64 << 20)
        memtrace.stage("after")
    """,
    )
    samples = [s for s in table(trace, "samples") if s["metric"] == "rss"]
    assert [s["reason"] for s in samples] == ["begin", "mark", "mark", "end"]
    assert samples[2]["value_bytes"] - samples[1]["value_bytes"] >= 60 << 20


def test_a_block_that_is_entered_later_is_sampled_then(tmp_path: Path) -> None:
    trace = record(
        tmp_path,
        """
        import time
        block = memtrace.stage("later")
        time.sleep(0.01)
        with block: pass
    """,
    )
    samples = [s for s in table(trace, "samples") if s["metric"] == "rss"]
    assert [s["reason"] for s in samples] == ["begin", "mark", "mark", "mark", "end"]


def test_a_plain_stage_begins_when_it_is_called_whatever_becomes_of_the_object(
    tmp_path: Path,
) -> None:
    found = stages_by_size(tmp_path, """
        import contextlib
        take(1001)
        kept_stage = memtrace.stage("kept in a variable")
        take(1002)
        memtrace.stage("called as a statement")
        take(1003)
        del kept_stage
        take(1004)
        block = memtrace.stage("entered later")
        take(1005)
        with block:
            take(1006)
        take(1007)
        with block as again:
            take(1008)
            with again: take(1009)
            take(1010)
        with contextlib.ExitStack() as stack:
            stack.enter_context(memtrace.stage("on a stack"))
            take(1011)
        take(1012)
        repr(memtrace.stage("shown"))
        take(1013)
    """)  # fmt: skip
    plain = "called as a statement"
    assert found == {
        1001: None, 1002: "kept in a variable", 1003: plain, 1004: plain, 1005: plain,
        1006: "entered later", 1007: plain, 1008: "entered later", 1009: "entered later",
        1010: "entered later", 1011: "on a stack", 1012: plain, 1013: "shown",
    }  # fmt: skip


def test_an_object_that_is_entered_again_is_a_new_stage(tmp_path: Path) -> None:
    trace = record(tmp_path, """
        block = memtrace.stage("again")
        with block:
            with block: pass
        with block: pass
    """)  # fmt: skip
    rows = sorted(table(trace, "stages"), key=lambda row: row["stage_id"])
    assert [(row["stage_id"], row["parent_id"], row["kind"]) for row in rows] == [
        (1, None, "scope"), (2, 1, "scope"), (3, None, "scope"),
    ]  # fmt: skip
    assert rows[1]["end_time_ns"] <= rows[0]["end_time_ns"] <= rows[2]["start_time_ns"]


def test_an_allocation_is_in_the_block_of_its_own_thread(tmp_path: Path) -> None:
    found = stages_by_size(tmp_path, """
        import threading
        step = threading.Barrier(3)
        def work(name, size):
            with memtrace.stage(name):
                step.wait()  # both are in their blocks
                step.wait()  # and the main thread has begun its stage
                take(size)
                memtrace.stage("plain in " + name)
                take(size + 1)
                step.wait()
            take(size + 2)
        threads = [threading.Thread(target=work, args=(f"t{i}", 1010 + 10 * i)) for i in (0, 1)]
        for thread in threads: thread.start()
        step.wait()
        memtrace.stage("plain")
        step.wait()
        take(1001)
        step.wait()
        take(1002)
        for thread in threads: thread.join()
    """)  # fmt: skip
    assert found == {
        1001: "plain", 1002: "plain",
        1010: "t0", 1011: "plain in t0", 1012: "plain",
        1020: "t1", 1021: "plain in t1", 1022: "plain",
    }  # fmt: skip


def test_a_thread_without_a_block_is_in_the_stage_of_the_main_thread(tmp_path: Path) -> None:
    found = stages_by_size(tmp_path, """
        import queue, threading
        sizes, done = queue.Queue(), queue.Queue()
        def serve():
            while size := sizes.get():
                take(size)
                done.put(None)
            memtrace.stage("begun by a worker")
            done.put(None)
        def ask(size):
            sizes.put(size)
            done.get()
        def stay():
            with memtrace.stage("of another worker"):
                done.put(None)
                leave.wait()
        leave = threading.Event()
        threads = [threading.Thread(target=serve), threading.Thread(target=stay)]
        threads[1].start()
        done.get()
        threads[0].start()
        ask(1001)
        memtrace.stage("idle")
        ask(1002)
        with memtrace.stage("inference"):
            ask(1003)
            memtrace.stage("warm")
            ask(1004)
        ask(1005)
        ask(0)
        take(1006)
        leave.set()
        for thread in threads: thread.join()
    """)  # fmt: skip
    assert found == {
        1001: None, 1002: "idle", 1003: "inference", 1004: "warm", 1005: "idle",
        1006: "begun by a worker",
    }  # fmt: skip


def test_autograds_threads_are_in_the_stage_of_the_thread_that_ran_the_forward(
    tmp_path: Path,
) -> None:
    trace = record(tmp_path, """
        import threading
        class Nested(torch.autograd.Function):
            # A backward pass in a backward pass, until torch gives one to a thread of its own.
            @staticmethod
            def forward(ctx, x): return x.clone()
            @staticmethod
            def backward(ctx, gradient):
                if threading.get_ident() != worker.ident:
                    take(1001)
                else:
                    go()
                return gradient
        def go():
            with torch.enable_grad():
                Nested.apply(torch.ones(3, requires_grad=True)).sum().backward()
        def work():
            with memtrace.stage("training"):
                take(1002)
                go()
        worker = threading.Thread(target=work)
        with memtrace.stage("waiting"):
            worker.start()
            worker.join()
    """, setup=TAKE)  # fmt: skip
    rows = {row["size_bytes"]: row for row in table(trace, "allocations")}
    assert rows[1001]["thread_id"] != rows[1002]["thread_id"]
    assert rows[1001]["stage"] == rows[1002]["stage"] == "training"


def test_a_block_may_be_left_in_another_thread_or_never(tmp_path: Path) -> None:
    rows = stages(record(tmp_path, """
        import threading
        def in_thread(work):
            thread = threading.Thread(target=work); thread.start(); thread.join()
        moving = memtrace.stage("left in another thread")
        with memtrace.stage("around"):
            in_thread(moving.__enter__)
            in_thread(lambda: moving.__exit__(None, None, None))
            in_thread(memtrace.stage("never left").__enter__)
            in_thread(lambda: memtrace.stage("called in a thread"))
    """))  # fmt: skip
    assert rows["left in another thread"]["end_time_ns"] <= rows["never left"]["start_time_ns"]
    assert rows["around"]["end_time_ns"] is not None
    assert rows["never left"]["end_time_ns"] is None
    assert rows["called in a thread"]["thread_id"] is None


def test_tasks_of_one_thread_have_blocks_of_their_own(tmp_path: Path) -> None:
    rows = stages(record(tmp_path, """
        import asyncio
        async def first(entered, left):
            with memtrace.stage("as1"):
                await asyncio.sleep(0)
                entered.set()
                with memtrace.stage("in as1"): await asyncio.sleep(0)
                await asyncio.sleep(0.01)
            left.set()
        async def second(entered, left):
            await entered.wait()
            with memtrace.stage("as2"):
                memtrace.stage("plain in as2")
                await left.wait()
                with memtrace.stage("after as1"): pass
        async def main():
            entered, left = asyncio.Event(), asyncio.Event()
            with memtrace.stage("main"):
                await asyncio.gather(first(entered, left), second(entered, left))
        asyncio.run(main())
    """))  # fmt: skip
    assert {name: row["parent"] for name, row in rows.items()} == {
        "main": None, "as1": "main", "in as1": "as1", "as2": "main", "plain in as2": "as2",
        "after as1": "plain in as2",
    }  # fmt: skip
    start = {name: row["start_time_ns"] for name, row in rows.items()}
    end = {name: row["end_time_ns"] for name, row in rows.items()}
    assert start["as1"] < start["as2"] < end["as1"] < start["after as1"] < end["as2"] < end["main"]
    assert end["plain in as2"] == end["as2"]


def test_an_allocation_between_tasks_is_in_the_block_that_was_entered_last(tmp_path: Path) -> None:
    found = stages_by_size(tmp_path, """
        import asyncio
        async def first(entered, left):
            with memtrace.stage("as1"):
                take(1001)
                entered.set()
                await asyncio.sleep(0.01)
                take(1002)
            left.set()
        async def second(entered, left):
            await entered.wait()
            with memtrace.stage("as2"):
                take(1003)
                await left.wait()
                take(1004)
            take(1005)
        async def main():
            entered, left = asyncio.Event(), asyncio.Event()
            await asyncio.gather(first(entered, left), second(entered, left))
        asyncio.run(main())
    """)  # fmt: skip
    assert found == {1001: "as1", 1002: "as2", 1003: "as2", 1004: "as2", 1005: None}


def test_what_a_task_leaves_running_outlives_its_block(tmp_path: Path) -> None:
    rows = stages(record(tmp_path, """
        import asyncio
        async def child(go):
            with memtrace.stage("child"):
                await go.wait()
                with memtrace.stage("late"): pass
        async def main():
            go = asyncio.Event()
            with memtrace.stage("parent"):
                task = asyncio.create_task(child(go))
                await asyncio.sleep(0)
            go.set()
            await task
        asyncio.run(main())
    """))  # fmt: skip
    assert (rows["child"]["parent"], rows["late"]["parent"]) == ("parent", "child")
    assert rows["parent"]["end_time_ns"] < rows["late"]["start_time_ns"]
    assert rows["late"]["end_time_ns"] < rows["child"]["end_time_ns"]


def test_generators(tmp_path: Path) -> None:
    rows = stages(record(tmp_path, """
        import contextlib
        def items(name):
            with memtrace.stage(name):
                yield 1
                yield 2
        with memtrace.stage("loop"):
            for item in items("run through"): pass
        with memtrace.stage("around"):
            suspended = items("suspended")
            next(suspended)
        with memtrace.stage("after"): pass
        suspended.close()
        with memtrace.stage("after that"): pass

        @contextlib.contextmanager
        def managed():
            with memtrace.stage("managed"): yield
        with managed():
            with memtrace.stage("inside"): pass
    """))  # fmt: skip
    assert {name: row["parent"] for name, row in rows.items()} == {
        "loop": None, "run through": "loop", "around": None, "suspended": "around", "after": None,
        "after that": None, "managed": None, "inside": "managed",
    }  # fmt: skip
    assert rows["suspended"]["end_time_ns"] <= rows["around"]["end_time_ns"]


def test_a_stage_belongs_to_the_recording_it_was_begun_in(tmp_path: Path) -> None:
    trace = record(tmp_path, """
        with before: memtrace.stage("one")
    """, setup="""
        import memtrace
        before = memtrace.stage("begun before")
        outside = memtrace.stage("entered before")
        outside.__enter__()
        with memtrace.record("first.memtrace"):
            open_at_end = memtrace.stage("open at its end")
            open_at_end.__enter__()
        open_at_end.__exit__(None, None, None)
        outside.__exit__(None, None, None)
    """)  # fmt: skip
    rows = stages(trace)
    assert {name: row["parent"] for name, row in rows.items()} == {
        "begun before": None, "one": "begun before",
    }  # fmt: skip
    (row,) = table(tmp_path / "first.memtrace", "stages")
    assert (row["name"], row["end_time_ns"]) == ("open at its end", None)


def test_a_forked_child_is_in_the_stages_it_was_forked_in(tmp_path: Path) -> None:
    trace = record(tmp_path, """
        import os, threading
        def fork():
            if (pid := os.fork()) == 0:
                return True
            os.waitpid(pid, 0)
            return False
        def forked(thread):
            thread.start(); thread.join()
        in_child = False
        memtrace.stage("replaced")
        memtrace.stage("plain")
        def work():
            global in_child
            with memtrace.stage("block"):
                memtrace.stage("plain in block")
                with memtrace.stage("inner"):
                    in_child = fork()
                    if in_child: take(1001)
                if in_child: take(1002)
            if in_child:
                take(1003)
                memtrace.stage("of the child")
                take(1004)
                os._exit(0)
        with memtrace.stage("of another thread"):
            forked(threading.Thread(target=work))
        if fork():
            take(1005)
            os._exit(0)
    """, setup=TAKE)  # fmt: skip
    found = {row["size_bytes"]: row["stage"] for row in table(trace, "allocations")}
    assert found == {
        1001: "inner", 1002: "plain in block", 1003: "plain", 1004: "of the child", 1005: "plain",
    }  # fmt: skip
    names = [row["name"] for row in table(trace, "stages")]
    assert names.count("plain") == 3, "here and in both children"
    assert names.count("inner") == 2
    assert names.count("replaced") == names.count("of another thread") == 1


def test_thousands_of_stages_open_at_once(tmp_path: Path) -> None:
    trace = record(tmp_path, """
        import asyncio
        async def task(number):
            with memtrace.stage(f"task {number}"): await asyncio.sleep(0)
        async def main():
            await asyncio.gather(*map(task, range(3000)))
        asyncio.run(main())
    """)  # fmt: skip
    rows = stages(trace)
    assert len(rows) == 3000
    assert all(row["end_time_ns"] is not None for row in rows.values())
