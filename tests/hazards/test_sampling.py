"""Sampling from beside real programs: it ends with them, survives them, and is in every trace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import memtrace
from memtrace.trace import Trace
from program_runs import plain_environment, recorded, wait_for_finaliser

MIB = 1 << 20
WAITING = """
import sys
held = bytearray(b"x" * (128 << 20))
print("ready", flush=True)
sys.stdin.read()
"""


class Program:
    """A recorded program that holds 128 MiB and waits for the end of its standard input."""

    def __init__(self, trace: Path, text: str = WAITING) -> None:
        self.trace = trace
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [sys.executable, "-m", "memtrace", "run", "--quiet", "-o", str(trace), "-c", text],
            stdin=pipe, stdout=pipe, env=plain_environment(),
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"


def sampled(trace: Trace, metric: str = "rss", *, pid: int | None = None) -> list[int]:
    keys = {p.key for p in trace.process_list if pid in (None, p.pid)}
    return [
        row["value_bytes"]
        for row in trace.samples.to_pylist()
        if row["reason"] == "period" and row["metric"] == metric and row["process"] in keys
    ]


def test_a_killed_program(tmp_path: Path) -> None:
    program = Program(tmp_path / "t.memtrace")
    time.sleep(0.7)
    program.process.kill()
    program.process.communicate()
    wait_for_finaliser(program.trace)
    values = sampled(memtrace.open(program.trace))
    assert len(values) >= 4
    assert max(values) > 128 * MIB


def test_a_killed_program_whose_finaliser_is_killed_too(tmp_path: Path) -> None:
    program = Program(tmp_path / "t.memtrace")
    time.sleep(0.5)
    os.kill(finaliser_of(program), signal.SIGKILL)
    program.process.kill()
    program.process.communicate()
    trace = memtrace.open(program.trace)  # which recovers it
    assert max(sampled(trace)) > 128 * MIB
    assert {row["metric"] for row in trace.timeline.to_pylist()} == {"process"}


def test_a_program_that_is_stopped_and_goes_on(tmp_path: Path) -> None:
    program = Program(tmp_path / "t.memtrace")
    program.process.send_signal(signal.SIGSTOP)
    time.sleep(0.6)
    program.process.send_signal(signal.SIGCONT)
    program.process.communicate(timeout=60)
    wait_for_finaliser(program.trace)
    assert program.process.returncode == 0
    assert len(sampled(memtrace.open(program.trace))) >= 4


def test_every_child_has_its_own(tmp_path: Path) -> None:
    text = textwrap.dedent("""
        import os, subprocess, sys, time
        child = "import time; held = bytearray(b'x' * (64 << 20)); time.sleep(0.8)"
        children = [subprocess.Popen([sys.executable, "-c", child]) for _ in range(6)]
        forked = os.fork()
        if not forked:
            time.sleep(0.8)
            os._exit(0)
        for each in children:
            each.wait()
        os.waitpid(forked, 0)
    """)
    assert recorded(tmp_path / "t.memtrace", "-c", text).status == 0
    trace = memtrace.open(tmp_path / "t.memtrace")
    assert len(trace.process_list) == 8
    for process in trace.process_list:
        values = sampled(trace, pid=process.pid)
        assert values, process
        if process.row["start_method"] == "subprocess":
            assert max(values) > 64 * MIB


def test_a_program_that_becomes_another(tmp_path: Path) -> None:
    text = textwrap.dedent("""
        import os, sys, time
        time.sleep(0.4)
        os.execv(sys.executable, [sys.executable, "-c",
            "import time; held = bytearray(b'x' * (256 << 20)); time.sleep(0.4)"])
    """)
    assert recorded(tmp_path / "t.memtrace", "-c", text).status == 0
    trace = memtrace.open(tmp_path / "t.memtrace")
    by_start = {
        p.row["start_method"]: [
            row["value_bytes"]
            for row in trace.samples.to_pylist()
            if row["process"] == p.key and row["metric"] == "rss" and row["reason"] == "period"
        ]
        for p in trace.process_list
    }
    assert 0 < max(by_start["main"]) < 256 * MIB < max(by_start["exec"])


@pytest.mark.parametrize("way", ["run", "record"])
def test_the_program_imports_nothing_more(tmp_path: Path, way: str) -> None:
    text = textwrap.dedent("""
        import sys
        if {record}:
            import memtrace
            recording = memtrace.record("r.memtrace")
            recording.start()
            memtrace.stage("load")
            recording.stop()
        heavy = ("psutil", "pynvml", "numpy", "pyarrow", "typing", "dataclasses")
        print([name for name in heavy if name in sys.modules])
    """).replace("{record}", str(way == "record"))
    path = tmp_path / "program.py"
    path.write_text(text)
    words = ["-m", "memtrace", "run", "--quiet", str(path)] if way == "run" else [str(path)]
    done = subprocess.run(
        [sys.executable, *words], cwd=tmp_path, env=plain_environment(), capture_output=True,
        check=True,
    )  # fmt: skip
    plain = subprocess.run(
        [sys.executable, "-c", text.replace("True", "False")], capture_output=True, check=True
    )
    assert done.stdout.splitlines()[-1] == plain.stdout.splitlines()[-1]


def test_a_program_that_records_itself_samples_itself(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(
        textwrap.dedent("""
        import memtrace
        with memtrace.record("r.memtrace"):
            held = bytearray(b"x" * (64 << 20))
            with memtrace.stage("load"):
                more = bytes(held)
    """)
    )
    subprocess.run([sys.executable, str(path)], cwd=tmp_path, env=plain_environment(), check=True)
    trace = memtrace.open(tmp_path / "r.memtrace")
    found = [(r["metric"], r["reason"]) for r in trace.samples.to_pylist()]
    assert next(reason for metric, reason in found if metric == "rss") == "begin"
    assert ("pss", "end") in found
    assert ("uss", "end") in found
    assert not any(reason == "period" for _, reason in found)
    usage = [r for r in trace.samples.to_pylist() if r["target"] == "container"]
    if usage:  # this machine has a memory cgroup
        assert {r["reason"] for r in usage} == {"begin", "mark", "end"}


def finaliser_of(program: Program) -> int:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if f"--trace={program.trace}".encode() in words and b"--pid" in words:
                return int(entry.name)
    raise AssertionError("no finaliser")
