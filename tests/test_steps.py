"""memtrace.step: which step memory and calls belong to, in programs of many tasks and threads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from program_runs import python, recorded
from test_stages import record, table

SETUP = """
    import asyncio, contextvars, threading, torch
    net = torch.nn.Linear(8, 64)
    kept = []
    def take(size):
        kept.append(torch.empty(size, dtype=torch.uint8))
"""


def steps(trace: Path) -> dict[int, dict[str, Any]]:
    return {row["step"]: row for row in table(trace, "steps")}


def taken(trace: Path) -> dict[int, str | None]:
    """By size, the name of the innermost marked step of what `take` took."""
    found = steps(trace)
    return {
        row["size_bytes"]: found[row["step"]]["name"] if row["step"] else None
        for row in table(trace, "allocations")
        if row["size_bytes"] >= 10_000
    }


def outer_name(found: dict[int, dict[str, Any]], number: int) -> str:
    while found[number]["parent_step"] is not None:
        number = found[number]["parent_step"]
    return str(found[number]["name"])


CONCURRENT = """
    async def request(n):
        with memtrace.step(f"request {n}"):
            mine = torch.empty(n, 1000)
            for _ in range(4):
                await asyncio.sleep(0)
                net(torch.ones(n, 8))
                mine = torch.cat([mine, torch.zeros(n, 1000)])
            await asyncio.to_thread(lambda: kept.append((net(torch.ones(n, 8)), torch.ones(n, 9))))
            async def child():
                await asyncio.sleep(0)
                kept.append(torch.full((n, 10), 2.0))
            await asyncio.gather(child(), child())
            kept.append(mine)
    async def main():
        await asyncio.gather(*[request(n) for n in range(1, 9)])
    asyncio.run(main())
"""


def test_requests_at_once_are_told_apart_in_tasks_and_threads(tmp_path: Path) -> None:
    trace = record(tmp_path, CONCURRENT, setup=SETUP)
    found = steps(trace)
    marked = [row for row in found.values() if row["name"]]
    assert sorted(row["name"] for row in marked) == [f"request {n}" for n in range(1, 9)]
    overlap = [row for row in marked if row["start_seq"] < max(r["start_seq"] for r in marked)]
    assert all(row["end_seq"] > max(r["start_seq"] for r in marked) for row in overlap)
    calls = [row for row in found.values() if not row["name"]]
    assert len(calls) == 8 * 5
    for call in calls:
        n = call["batch_size"]
        assert outer_name(found, call["step"]) == f"request {n}"
    assert len({row["thread_id"] for row in calls}) > 1  # the thread pool's too
    sizes = {4 * 1000, 4 * 8, 4 * 64, 4 * 9, 4 * 10}
    checked = 0
    for row in table(trace, "allocations"):
        if row["step"] is None:
            continue
        n = int(outer_name(found, row["step"]).split()[1])
        assert row["size_bytes"] / n in sizes | {4 * 1000 * k for k in range(2, 6)}, row
        checked += 1
    # empty; four times: ones, call, zeros, cat; in the thread: ones, call, ones; two children
    assert checked == 8 * (1 + 4 * 4 + 3 + 2)


def test_a_marked_step_has_the_shapes_of_the_call_that_was_given_most(tmp_path: Path) -> None:
    text = """
        with memtrace.step("generate") as step:
            net(torch.ones(2, 8)); net(torch.ones(5, 3, 8)); net(torch.ones(1, 8))
            step.name = "POST /generate"
        with memtrace.step("empty"):
            pass
        with memtrace.step("train", kind="epoch"):
            with memtrace.step("batch"):
                net(torch.ones(1, 8)).sum().backward()
        try:
            with memtrace.step("fails"):
                raise KeyError("secret")
        except KeyError:
            pass
        open_one = memtrace.step("never left").__enter__()
        take(10_001)
    """
    trace = record(tmp_path, text, setup=SETUP)
    found = steps(trace)
    named = {row["name"]: row for row in found.values() if row["name"]}
    generate = named["POST /generate"]
    assert (generate["batch_size"], json.loads(generate["input_shapes"])) == (
        5, {"input": [5, 3, 8]},
    )  # fmt: skip
    assert (generate["root_module"], generate["kind"]) == (None, "inference")
    calls = [row for row in found.values() if row["parent_step"] == generate["step"]]
    assert [row["root_module"] for row in calls] == ["Linear"] * 3
    assert named["empty"]["input_shapes"] is None
    assert named["empty"]["kind"] is None
    assert named["batch"]["parent_step"] == named["train"]["step"]
    assert (named["train"]["kind"], named["batch"]["kind"]) == ("epoch", "training")
    assert named["train"]["batch_size"] == 1
    assert named["fails"]["error"] == "KeyError"
    assert named["never left"]["end_seq"] is None
    assert taken(trace) == {10_001: "never left"}
    assert len(found) == len(table(trace, "steps"))  # calls and marked steps count together


def test_what_is_in_a_step_and_what_is_not(tmp_path: Path) -> None:
    text = """
        def apart(size):
            thread = threading.Thread(target=take, args=(size,)); thread.start(); thread.join()
        step = memtrace.step("a")
        with step:
            take(10_001)
            apart(10_002)                       # a thread of its own has a context of its own
            inside = contextvars.copy_context()
            with memtrace.step("inner"):
                take(10_003)
            take(10_004)
            # many variables: the map of the context has nodes of every kind
            variables = [contextvars.ContextVar(str(i)) for i in range(2000)]
            for variable in variables:
                variable.set(1)
            take(10_005)
        take(10_006)
        inside.run(take, 10_007)                # the step is over, if its context is not
        with memtrace.step("b"):
            inside.run(take, 10_008)
            take(10_009)
        def generator():
            with memtrace.step("c"):
                take(10_010)
                yield
                take(10_011)
        left = generator(); next(left); contextvars.copy_context().run(list, left)
        take(10_012)                            # left in another context than it was entered in
    """
    trace = record(tmp_path, text, setup=SETUP)
    assert taken(trace) == {
        10_001: "a", 10_002: None, 10_003: "inner", 10_004: "a", 10_005: "a", 10_006: None,
        10_007: None, 10_008: None, 10_009: "b", 10_010: "c", 10_011: "c", 10_012: None,
    }  # fmt: skip


def test_steps_of_another_recording_and_of_none(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text("""
import memtrace
# Nothing is recorded yet, nor is torch there.
with memtrace.step("before"), memtrace.step("inner") as inner:
    recording = memtrace.record("first.memtrace")
    recording.start()
    with memtrace.step("first"):
        import torch
        def take(size):
            return torch.empty(size, dtype=torch.uint8)
        a = take(10_001)
        recording.stop()
        with memtrace.record("second.memtrace"):
            b = take(10_002)
            with memtrace.step("second"):
                c = take(10_003)
            d = take(10_004)
    e = take(10_005)
assert repr(inner) == "memtrace.step('inner')"
""")
    shown = python(path, cwd=tmp_path)
    assert shown.status == 0, shown.err.decode()
    assert taken(tmp_path / "first.memtrace") == {10_001: "first"}
    names = taken(tmp_path / "second.memtrace")
    assert {size: names[size] for size in (10_002, 10_003, 10_004)} == {
        10_002: None, 10_003: "second", 10_004: None,
    }  # fmt: skip


def test_a_forked_child_is_in_no_step_of_its_parent(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text("""
import memtrace, os, torch
with memtrace.step("parent"):
    pid = os.fork()
    kept = [torch.empty(10_001 if pid else 10_002, dtype=torch.uint8)]
    if pid == 0:
        with memtrace.step("child"):
            kept.append(torch.empty(10_003, dtype=torch.uint8))
if pid:
    os.waitpid(pid, 0)
""")
    shown = recorded(tmp_path / "x.memtrace", path, cwd=tmp_path)
    assert shown.status == 0, shown.err.decode()
    trace = tmp_path / "x.memtrace"
    # Each process counts its own.
    by_process: dict[int, str | None] = {}
    for folder in (trace / "allocations").iterdir():
        key = folder.name
        rows = list(read(trace / "steps" / key))
        names = {row["step"]: row["name"] for row in rows}
        for row in read(folder):
            if row["size_bytes"] > 10_000:
                by_process[row["size_bytes"]] = names.get(row["step"])
    assert by_process == {10_001: "parent", 10_002: None, 10_003: "child"}


def read(folder: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = []
    for part in sorted(folder.glob("*.parquet")):
        rows += pq.read_table(part, partitioning=None).to_pylist()
    return rows
